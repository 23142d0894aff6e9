"""From settings to a model: which parts of it train."""

from __future__ import annotations

import copy

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from mfd_flower.config import ModelConfig
from mfd_flower.data.federation import InputSpec
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.prompts import PromptedViT


def input_spec(backbone: VisionTransformer) -> InputSpec:
    """Read off a backbone which images it expects."""
    height, _ = backbone.patch_embed.img_size
    channels = backbone.patch_embed.proj.in_channels
    # timm's name for what a model was trained with; fm-tiny has none and saw (x - 0.5) / 0.5.
    trained = getattr(backbone, "pretrained_cfg", None) or {}
    mean = tuple(trained.get("mean", (0.5,) * channels))
    std = tuple(trained.get("std", (0.5,) * channels))
    return InputSpec(height, channels, mean, std)


def build_model(config: ModelConfig, num_classes: int, seed: int) -> PromptedViT:
    """Build the model whose tunables `config.tune` names.

    ``head`` trains the classifier alone, ``prompts`` adds visual prompts, ``lora`` adds low-rank
    factors of every block's qkv projection (Hu et al., arXiv 2106.09685), ``full`` trains all
    weights. The head trains in each of them. Frozen weights are shared with every other model of
    this process.

    Parameters
    ----------
    config : ModelConfig
        Backbone and method.
    num_classes : int
        Outputs.
    seed : int
        Draws what is new: same seed, same initial tunables.

    Returns
    -------
    PromptedViT
        With ``requires_grad`` set on exactly the tunables.
    """
    draw = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(draw >> np.uint64(1)))
    backbone = load_backbone(config, seed)
    if config.tune == "full":
        model = PromptedViT(copy.deepcopy(backbone), num_classes, generator=generator)
        model.requires_grad_(True)
        return model
    if config.tune == "lora":
        backbone = _with_lora(backbone, config, generator)
        adapters = [p for p in backbone.parameters() if p.requires_grad]
        model = PromptedViT(backbone, num_classes, generator=generator)
        for parameter in adapters:
            parameter.requires_grad_(True)
        return model
    num_prompts = config.prompts if config.tune == "prompts" else 0
    return PromptedViT(
        backbone,
        num_classes,
        num_prompts,
        config.deep,
        dropout=config.prompt_dropout,
        generator=generator,
    )


def _with_lora(
    backbone: VisionTransformer, config: ModelConfig, generator: torch.Generator
) -> VisionTransformer:
    from peft import LoraConfig, inject_adapter_in_model

    # The modules are copied, since peft rewires them; the frozen weights in them are not.
    shared = {id(p): p for p in backbone.parameters()}
    adapted = copy.deepcopy(backbone, shared)
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=["qkv"])
    with torch.random.fork_rng(devices=[]):
        adapted = inject_adapter_in_model(lora, adapted)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                bound = 1 / parameter.shape[1] ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return adapted
