"""From settings to a model: which parts of it train."""

from __future__ import annotations

import copy

import numpy as np
import torch
from timm.data import resolve_data_config
from timm.models.vision_transformer import VisionTransformer

from mfd_flower.config import ModelConfig
from mfd_flower.data.samples import InputSpec
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.prompts import PromptedViT


def input_spec(backbone: VisionTransformer) -> InputSpec:
    """Read off a backbone which images it expects."""
    height, _ = backbone.patch_embed.img_size
    channels = backbone.patch_embed.proj.in_channels
    # timm's name for what a model was trained with; fm-tiny has none and saw (x - 0.5) / 0.5.
    trained = getattr(backbone, "pretrained_cfg", None) or {}
    mean, std = (tuple(trained.get(name, (0.5,) * channels)) for name in ("mean", "std"))
    resized = resolve_data_config(pretrained_cfg={"crop_pct": 1.0, **trained})
    cropped = (resized["interpolation"], resized["crop_pct"], resized["crop_mode"])
    return InputSpec(height, channels, mean, std, *cropped)


def build_model(config: ModelConfig, num_classes: int, seed: int) -> PromptedViT:
    """Build the model whose tunables `config.tune` names; `seed` draws what is new.

    ``head`` trains the classifier alone, ``prompts`` adds visual prompts, ``lora`` adds low-rank
    factors of every block's qkv projection (Hu et al., arXiv 2106.09685), ``full`` trains all.
    ``requires_grad`` is set on exactly the tunables; a process has frozen weights once.
    """
    draw = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(draw >> np.uint64(1)))
    backbone = load_backbone(config, seed)
    if config.tune == "full":
        backbone = copy.deepcopy(backbone).requires_grad_(True)
    elif config.tune == "lora":
        backbone = _with_lora(backbone, config, generator)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    prompts, dropout = (config.prompts if config.tune == "prompts" else 0), config.prompt_dropout
    model = PromptedViT(
        backbone, num_classes, prompts, config.deep, dropout=dropout, generator=generator
    )
    for parameter in trained:  # The model froze its backbone.
        parameter.requires_grad_(True)
    model.built_from = (config, num_classes, seed)
    return model


def _with_lora(
    backbone: VisionTransformer, config: ModelConfig, generator: torch.Generator
) -> VisionTransformer:
    from peft import LoraConfig, inject_adapter_in_model

    # The modules are copied, since peft rewires them; the frozen weights in them are not.
    shared = {id(p): p for p in backbone.parameters()}
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=["qkv"])
    with torch.random.fork_rng(devices=[]):
        adapted = inject_adapter_in_model(lora, copy.deepcopy(backbone, shared))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                bound = 1 / parameter.shape[1] ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return adapted
