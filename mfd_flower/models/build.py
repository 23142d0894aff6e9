"""From settings to a model: which parts of it train."""

from __future__ import annotations

import copy
import re
from typing import cast

import numpy as np
import torch
from timm.data import resolve_data_config
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.data.augmentation import process_generators
from mfd_flower.data.samples import InputSpec, of_channels
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.plain import PlainModel
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.trunk import Trunk, takes_prompts
from mfd_flower.models.tunables import named_tunables
from mfd_flower.models.tuned import Backbone, PlainBackbone, TunedModel

PROJECTIONS = {"qkv", "q_proj", "k_proj", "v_proj", "in_proj"}
"""Linear layers in front of an attention; `in_proj` of parallel blocks serves the MLP too."""


def input_spec(backbone: Backbone) -> InputSpec:
    """Read off a backbone which images it expects."""
    if isinstance(backbone, PlainBackbone):
        height, channels = backbone.size_px, backbone.channels
    else:
        height, _ = backbone.patch_embed.img_size
        convolutions = (m for m in backbone.patch_embed.modules() if isinstance(m, nn.Conv2d))
        channels = next(convolutions).in_channels
    # timm's name for what a model was trained with; fm-tiny has none and saw (x - 0.5) / 0.5.
    trained = getattr(backbone, "pretrained_cfg", None) or {}
    mean, std = (
        of_channels(trained.get(name, (0.5,) * channels), channels) for name in ("mean", "std")
    )
    resized = resolve_data_config(pretrained_cfg={"crop_pct": 1.0, **trained})
    cropped = (resized["interpolation"], resized["crop_pct"], resized["crop_mode"])
    return InputSpec(height, channels, mean, std, *cropped)


def build_model(config: ModelConfig, num_classes: int, seed: int) -> TunedModel:
    """Build the model whose tunables `config.tune` names; `seed` draws what is new.

    ``head`` trains the classifier alone, ``prompts`` adds visual prompts, ``lora`` adds low-rank
    factors of every block's `lora_targets` (Hu et al., arXiv 2106.09685), ``full`` trains all.
    ``requires_grad`` is set on exactly the tunables; a process has frozen weights once. It is a
    `PromptedViT` on a token transformer, else a `PlainModel`.
    """
    # What torch, timm and peft draw is replaced, but from the process's generators.
    with process_generators:
        return _built(config, num_classes, seed)


def _built(config: ModelConfig, num_classes: int, seed: int) -> TunedModel:
    draw = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(draw >> np.uint64(1)))
    backbone = load_backbone(config, seed)
    if config.tune == "full":
        backbone = copy.deepcopy(backbone).requires_grad_(True)
    elif config.tune == "lora":
        backbone = _with_lora(cast(Trunk, backbone), config, generator)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    model: TunedModel
    if isinstance(backbone, PlainBackbone):
        model = PlainModel(backbone, num_classes, generator=generator)
    else:
        model = _prompted(backbone, config, num_classes, generator)
    for parameter in trained:  # The model froze its backbone.
        parameter.requires_grad_(True)
    model.built_from = (config, num_classes, seed)
    return model


def _prompted(
    backbone: Trunk, config: ModelConfig, num_classes: int, generator: torch.Generator
) -> PromptedViT:
    prompts, first = (config.prompts, config.prompt_from) if config.tune == "prompts" else (0, 0)
    if prompts and not takes_prompts(backbone):
        reason = "its blocks add a bias for each pair of their own tokens, prompts have none"
        raise ConfigError("model.tune", config.tune, f"{reason}; accepted here: lora, head, full")
    if first >= len(backbone.blocks):
        accepted = f"accepted: less than {len(backbone.blocks)}, the blocks that there are"
        raise ConfigError("model.prompt_from", first, accepted)
    return PromptedViT(
        backbone,
        num_classes,
        prompts,
        config.deep,
        prompt_from=first,
        levels=levels_of(config.levels, len(backbone.blocks)),
        dropout=config.prompt_dropout,
        generator=generator,
    )


def levels_of(text: str, depth: int) -> tuple[int, ...]:
    """Return the numbers of blocks that `ModelConfig.levels` names, of `depth` that there are."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    found = tuple(int(part) for part in parts if re.fullmatch(r"[0-9]{1,4}", part))
    rising = list(found) == sorted(set(found)) and all(1 <= level <= depth for level in found)
    if len(found) < len(parts) or not rising:
        accepted = f"rising numbers from 1 to {depth}, the blocks that there are, such as 2,{depth}"
        raise ConfigError("model.levels", text, accepted)
    return found


def check_model(model: TunedModel, tune: str) -> None:
    """Try a model that tunes `tune`; ConfigError if it fails, or makes no use of a tunable.

    Where everything trains only the forward pass is tried: gradients would need the model's size
    again.
    """
    spec = input_spec(model.backbone)
    size = (1, spec.channels, spec.size_px, spec.size_px)
    image = torch.zeros(size, device=model.head.weight.device)
    tunables = dict(named_tunables(model))
    with torch.set_grad_enabled(tune != "full"):
        try:
            logits = model.eval()(image)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            said = f"this backbone does not run so ({reason})"
            raise ConfigError("model.tune", tune, said) from error
    if tune == "full":
        return
    gradients = torch.autograd.grad(logits.sum(), list(tunables.values()), allow_unused=True)
    unused = [n for n, g in zip(tunables, gradients, strict=True) if g is None]
    if unused:
        raise ConfigError("model.tune", tune, f"this backbone makes no use of {unused[0]}")


def lora_targets(backbone: Trunk) -> list[str]:
    """Return the names of what LoRA adapts: the projections to queries, keys and values."""
    found = {
        name.rpartition(".")[2]
        for name, module in backbone.blocks.named_modules()
        if isinstance(module, nn.Linear)
    }
    return sorted(found & PROJECTIONS)


def _with_lora(backbone: Trunk, config: ModelConfig, generator: torch.Generator) -> Trunk:
    from peft import LoraConfig, inject_adapter_in_model

    targets = lora_targets(backbone)
    if not targets:
        accepted = f"its blocks have none of {', '.join(sorted(PROJECTIONS))}"
        raise ConfigError("model.tune", config.tune, accepted)
    # The modules are copied, since peft rewires them; the frozen weights in them are not.
    shared = {id(p): p for p in backbone.parameters()}
    copied = copy.deepcopy(backbone, shared)
    for module in copied.blocks.modules():
        if isinstance(module, EvaAttention | BeitAttention):
            # Else it takes the projection's weight without calling it: past LoRA.
            module.qkv_bias_separate = True
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        adapted = inject_adapter_in_model(lora, copied)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                bound = 1 / parameter.shape[1] ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return adapted
