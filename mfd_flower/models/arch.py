"""A backbone's architecture without its weights: what there is, and how settings shape it."""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models.plain import SMALL, WAYS, as_plain, check_settings, new_small
from mfd_flower.models.trunk import Trunk, checked_trunk, is_trunk, patch_size_px
from mfd_flower.models.tuned import Backbone

OWN = ("fm-tiny", *SMALL)
"""Architectures of this package."""


def new_fm_tiny(img_size: int = 28, in_chans: int = 1) -> VisionTransformer:
    """Return fm-tiny without its weights: 28 px grey images, 16 patches, 6 blocks of width 96."""
    return VisionTransformer(
        img_size=img_size,
        patch_size=7,
        in_chans=in_chans,
        embed_dim=96,
        depth=6,
        num_heads=3,
        num_classes=0,
    )


@functools.lru_cache(maxsize=32)
def check_arch(config: ModelConfig, name: str, field: str) -> None:
    """Refuse what is no such backbone before its weights are drawn, read or downloaded."""
    value, own = (config.arch, OWN) if field == "model.arch" else (config.backbone, ())
    if name in SMALL and own:
        check_settings(config, value)
    if name in own:
        return
    if not timm.is_model(name):
        listed = "".join(f"{each}, " for each in own)
        accepted = f"accepted: {listed}those of timm.list_models()"
        raise ConfigError(field, value, f"no timm model of this name; {accepted}")
    check_kind(config, name, field, value)


def check_kind(config: ModelConfig, name: str, field: str, value: str) -> None:
    """Refuse a timm model that is not what the settings tune."""
    usual = _usual(name, field, value)
    if config.tune in WAYS and not is_trunk(usual):
        check_settings(config, value)
        as_plain(usual, field, value)
        return
    # At its own size, since a convolutional stem rounds: at another one its patches look smaller.
    _check_side(config.img_size, checked_trunk(usual, field, value))


@functools.lru_cache(maxsize=8)
def _usual(name: str, field: str, value: str) -> nn.Module:
    """Return a timm model at its usual size, without memory for its weights."""
    with torch.device("meta"):
        return _created(name, field, value).eval()


def _created(name: str, field: str, value: str, **keywords: Any) -> nn.Module:
    try:
        return timm.create_model(name, num_classes=0, **keywords)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(field, value, f"timm does not make it ({reason})") from error


def _check_side(side_px: int, trunk: Trunk) -> None:
    patch_px = patch_size_px(trunk)
    if side_px % patch_px[0] or side_px % patch_px[1]:
        accepted = f"accepted: multiples of the patch, {patch_px[0]} px"
        raise ConfigError("model.img_size", side_px, accepted)


def new_backbone(arch: str, config: ModelConfig, pretrained: bool = False) -> Backbone:
    """Make a backbone as `config` shapes it."""
    size = {"img_size": config.img_size, "in_chans": config.in_chans}
    keywords: dict[str, Any] = {name: value for name, value in size.items() if value}
    if arch == "fm-tiny":
        return _shaped(new_fm_tiny(**keywords), config)
    if arch in SMALL:
        return new_small(arch, config)
    made = _made(arch, pretrained, keywords)
    if not is_trunk(made):
        return as_plain(made, "model.arch", arch, config.img_size)
    return _shaped(checked_trunk(made, "model.arch", arch), config)


def _made(arch: str, pretrained: bool, keywords: dict[str, Any]) -> nn.Module:
    def create(**given: Any) -> nn.Module:
        if pretrained:  # `_from_hub` says what went wrong.
            return timm.create_model(arch, pretrained=True, num_classes=0, **given)
        return _created(arch, "model.arch", arch, **given)

    try:
        return create(**keywords)
    except (ConfigError, TypeError):
        # Most CNNs take images of any size, and no such keyword.
        size_px = keywords.pop("img_size", 0)
        if not size_px or is_trunk(_usual(arch, "model.arch", arch)):
            raise
        return create(**keywords)


def _shaped(model: Trunk, config: ModelConfig) -> Trunk:
    """Leave `config.blocks` of the blocks, and let it pool as `config.pooling` says."""
    depth = len(model.blocks)
    height, width = model.patch_embed.img_size
    if height != width:
        accepted = f"images of this backbone are {height} x {width} px: name one side for a square"
        raise ConfigError("model.img_size", config.img_size, accepted)
    _check_side(height, model)
    if config.blocks > depth:
        raise ConfigError("model.blocks", config.blocks, f"accepted: at most {depth}; 0 for all")
    if config.blocks:
        model.blocks = model.blocks[: config.blocks]
    if config.pooling:
        try:
            model.reset_classifier(0, config.pooling)
        except AssertionError as error:
            raise ConfigError("model.pooling", config.pooling, f"of timm: {error}") from error
    return model
