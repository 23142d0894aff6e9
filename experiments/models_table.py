"""Check architectures of timm against timm's own forward pass, and write what works.

    python -m experiments.models_table                       # all, about 4 minutes on one core
    python -m experiments.models_table vit_tiny_patch16_224  # some, printed only

Each architecture gets random weights and goes through a file to `load_backbone`. What our model
says with random tunables, whole and split at several cuts, is compared with a copy of timm's model
that knows nothing of ours: hooks put prompts into its blocks' inputs and take them out before its
last norm, LoRA is added to its weights, trained weights are loaded into it.
"""

from __future__ import annotations

import copy
import datetime
import importlib.metadata
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models import (
    TunedModel,
    build_model,
    get_tunables,
    input_spec,
    load_backbone,
    set_tunables,
)
from mfd_flower.models.build import check_model, lora_targets
from mfd_flower.models.prompts import as_prompted
from mfd_flower.models.stages import split_model
from mfd_flower.models.tested import TESTED_FILE, WAYS
from mfd_flower.models.trunk import is_trunk, patch_size_px
from mfd_flower.models.tuned import PlainBackbone

CLASSES, PROMPTS, IMAGES = 5, 3, 2
PATCHES = 5
"""Patches on a side of the images: memory, not the architecture, decides."""
TOLERANCE = 1e-4
"""Accepted difference of a logit, in units of the largest."""
ARCHITECTURES = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_medium_patch16_gap_256",
    "vit_base_patch16_rpn_224",
    "flexivit_small",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_224",
    "vit_pe_core_tiny_patch16_384",
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_xp_224",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_dwee_patch16_reg1_gap_256",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
    "vit_base_mci_224",
    "beit_base_patch16_224",
    "beitv2_base_patch16_224",
    "vit_relpos_small_patch16_224",
    "cait_xxs24_224",
    "xcit_nano_12_p16_224",
    "samvit_base_patch16",
    "naflexvit_base_patch16_gap",
    "hiera_tiny_224",
    "swin_tiny_patch4_window7_224",
    "maxvit_tiny_tf_224",
    "mobilevit_s",
    "convnext_tiny",
)


def row(arch: str) -> dict[str, Any]:
    """Return what works of one architecture, and by how much it differs from timm."""
    try:
        backbone = load_backbone(ModelConfig(backbone="random", arch=arch, tune="head"))
    except ConfigError as error:
        return {"architecture": arch, "refused": str(error).partition(": ")[2]}
    trunk = None if isinstance(backbone, PlainBackbone) else backbone
    side_px = PATCHES * patch_size_px(trunk)[0] if trunk else input_spec(backbone).size_px
    # timm's own, made without us; fresh weights are so small that blocks hardly matter.
    torch.manual_seed(0)
    sized: dict[str, Any] = {"img_size": side_px} if trunk else {}
    timm_model = timm.create_model(arch, num_classes=0, **sized).eval()
    shake(dict(timm_model.named_parameters()))
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/weights.safetensors"
        save_file({n: t.contiguous() for n, t in timm_model.state_dict().items()}, file)
        shape = ModelConfig(backbone=f"file:{file}", arch=arch, img_size=side_px, prompts=PROMPTS)
        ways = {way: cell(tuned(shape, way), timm_model) for way in WAYS}
    return {
        "architecture": arch,
        "class": type(timm_model).__name__,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "blocks": len(trunk.blocks) if trunk else 0,
        "image_px": side_px,
        "lora_targets": lora_targets(trunk) if trunk else [],
        "ways": ways,
    }


def tuned(shape: ModelConfig, way: str) -> ModelConfig:
    """Return the settings of a way of tuning."""
    if way in ("shallow", "deep"):
        return replace(shape, tune="prompts", deep=way == "deep")
    return replace(shape, tune=cast(Any, way))


def cell(config: ModelConfig, timm_model: Any) -> dict[str, Any]:
    """Return the largest difference of a logit, whole and split, or why there is none."""
    try:
        model = build_model(config, CLASSES, seed=0)
        check_model(model, config.tune)
    except ConfigError as error:
        return {"refused": str(error).partition(": ")[2]}
    tunables = get_tunables(model)
    shake(tunables)
    set_tunables(model.eval(), tunables)
    images = torch.randn(IMAGES, 3, *[input_spec(model.backbone).size_px] * 2)
    with torch.no_grad():
        expected = timm_logits(timm_model, tunables, images, config.lora_alpha / config.lora_rank)
        found = {"whole": model(images)}
        if config.tune != "head":  # A head alone has nothing in front to be split.
            found |= split_logits(model, images)
    return {
        name: value if isinstance(value, str) else difference(value, expected)
        for name, value in found.items()
    }


def split_logits(model: TunedModel, images: Tensor) -> dict[str, Any]:
    """Return the logits of three stages and of one more for the head, or why there are none."""
    try:
        depth = len(as_prompted(model, "it is split").backbone.blocks)
        stages = split_model(model, [1, depth // 2], u_shape=True)
    except ConfigError as error:
        return {"split_refused": str(error).partition(": ")[2]}
    tensor = images
    for stage in stages:
        tensor = stage(tensor)
    return {"split": tensor}


def timm_logits(
    timm_model: Any, tunables: Mapping[str, Tensor], images: Tensor, lora_scale: float
) -> Tensor:
    """Return what timm's own forward pass says with these tunables; nothing of ours is called."""
    model = copy.deepcopy(timm_model)
    own = dict(model.named_parameters())
    for name, tensor in tunables.items():
        if (plain := name.removeprefix("backbone.").removeprefix("network.")) in own:
            own[plain].copy_(tensor)
        elif name.endswith("lora_A.default.weight"):
            module = model.get_submodule(plain.removesuffix(".lora_A.default.weight"))
            module.weight += lora_scale * tunables[name.replace("lora_A", "lora_B")] @ tensor
    prompts = {int(n.split(".")[1]): t for n, t in tunables.items() if n.startswith("prompts.")}
    if prompts:
        hook_prompts(model, prompts)
    features = model(images)  # It has no classifier.
    if not is_trunk(model):
        features = F.layer_norm(features, features.shape[1:])
    return features @ tunables["head.weight"].T + tunables["head.bias"]


def hook_prompts(model: Any, prompts: Mapping[int, Tensor]) -> None:
    """Let a timm model of its own put prompts in front of its patches (VPT, equations 4 to 8)."""
    prefix, count, first = model.num_prefix_tokens, PROMPTS, min(prompts)

    def put_in(index: int, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tokens, behind = args[0], prefix + (count if index > first else 0)
        here = prompts[index].expand(len(tokens), -1, -1)
        return (torch.cat([tokens[:, :prefix], here, tokens[:, behind:]], dim=1), *args[1:])

    def take_out(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.cat([args[0][:, :prefix], args[0][:, prefix + count :]], dim=1),)

    for index, block in enumerate(model.blocks):
        if index in prompts:
            block.register_forward_pre_hook(lambda module, args, i=index: put_in(i, args))
        for module in block.modules():
            # Rotary attention turns all but so many first tokens: to timm prompts are prefix.
            if index >= first and hasattr(module, "num_prefix_tokens"):
                module.num_prefix_tokens += count
    model.norm.register_forward_pre_hook(take_out)


def shake(tensors: Mapping[str, Tensor]) -> None:
    """Move tensors in place by normal noise, the same each time."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference in units of the largest expected value."""
    if not torch.isfinite(expected).all():
        raise ValueError("the logits that are compared are not finite")
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Print a row an architecture; without arguments write the whole table."""
    torch.set_num_threads(1)
    rows = []
    for arch in sys.argv[1:] or ARCHITECTURES:
        rows.append(row(arch))
        print(json.dumps(rows[-1]), flush=True)
        off = [v for way in rows[-1].get("ways", {}).values() for v in way.values()]
        if any(not isinstance(value, str) and value >= TOLERANCE for value in off):
            sys.exit(f"{arch} differs from timm by more than {TOLERANCE}")
    if not sys.argv[1:]:
        packages = ("torch", "timm", "peft", "mfd-flower")
        table = {
            "command": "python -m experiments.models_table",
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {platform.system()}, 1 thread",
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "rows": rows,
        }
        TESTED_FILE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
