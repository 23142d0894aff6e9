"""Frozen backbones by name, loaded once a process and shared read-only.

`fm-tiny` is the package's own small foundation model (`experiments/pretrain_fm_tiny.py`),
`vit-small` and `lite0` are public ones that `make` fetches. Any other token transformer of timm
takes their place by `hub:<timm name>` or `file:<safetensors>`, and any other network where a head
or all of it is tuned.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.data.augmentation import process_generators
from mfd_flower.models.of_size import SIZES, is_sized, of_size
from mfd_flower.models.plain import (
    SMALL,
    WAYS,
    as_plain,
    check_settings,
    new_small,
)
from mfd_flower.models.trunk import Trunk, checked_trunk, is_trunk, patch_size_px
from mfd_flower.models.tuned import Backbone, PlainBackbone
from mfd_flower.models.weight_files import fill
from mfd_flower.packets.digest import version_digest

FM_TINY_FILE = "mfd_flower/models/weights/fm_tiny.safetensors"
OWN = ("fm-tiny", *SMALL)
"""Architectures of this package."""
FETCHED = {"vit-small": ("vit_small_patch14_dinov2", 112), "lite0": ("tf_efficientnet_lite0", 0)}
"""timm's name of what `make` fetches, and the side of its images where the settings name none."""


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


NORMALISED = {
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}
"""Means and deviations of the channels, by `ModelConfig.normalise`."""
SHAPE = ("arch", "img_size", "in_chans", "normalise", "blocks", "pooling", *SIZES)
"""Settings that say which frozen weights there are."""


def fetched_file(name: str) -> Path:
    """Return where `make` puts weights that it fetches: the user's cache, for all checkouts."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mfd-flower" / f"{name.replace('-', '_')}.safetensors"


def load_backbone(config: ModelConfig, seed: int = 0) -> Backbone:
    """Return the frozen backbone that `config` names, in eval mode; one object a process.

    `seed` draws the weights of ``random``. Raises ConfigError if there is no such model, its
    weights are missing or broken, or it cannot be as the settings want it.
    """
    kind, _, name = config.backbone.partition(":")
    if kind in FETCHED:
        _check_kind(config, FETCHED[kind][0], "model.backbone", kind)
    elif kind in ("random", "file"):
        _check_arch(config, config.arch, "model.arch")
    elif kind == "hub" and name:
        _check_arch(config, name, "model.backbone")
    shape = {n: getattr(config, n) for n in SHAPE}
    if kind not in ("random", "file"):
        del shape["arch"]
    drawn = seed if config.backbone == "random" else 0
    return _load(ModelConfig(backbone=config.backbone, **shape), drawn)


def backbone_digest(backbone: nn.Module) -> str:
    """Return the version of a frozen backbone's weights, 64 hexadecimal digits, computed once.

    It is that of a packet with the backbone's state. Image size and pooling are settings: what is
    kept of a backbone's work depends on them too.
    """
    if backbone not in _digests:
        _digests[backbone] = version_digest(backbone.state_dict())
    return _digests[backbone]


_digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@functools.lru_cache(maxsize=8)
def _load(config: ModelConfig, seed: int) -> Backbone:
    if is_sized(config):
        usual: dict[str, Any] = dict.fromkeys(SIZES, 0)
        own = _load(replace(config, **usual), seed)
        whole = checked_trunk(own, "model.backbone", config.backbone)
        return of_size(whole, config).requires_grad_(False).eval()
    with process_generators:
        found = _named(config, seed).requires_grad_(False).eval()
    if config.normalise:
        told = dict(zip(("mean", "std"), NORMALISED[config.normalise], strict=True))
        network: Any = found.network if isinstance(found, PlainBackbone) else found
        network.pretrained_cfg = {**(getattr(network, "pretrained_cfg", None) or {}), **told}
    return found


def _named(config: ModelConfig, seed: int) -> Backbone:
    kind, _, name = config.backbone.partition(":")
    model: Backbone
    if config.backbone == "fm-tiny":
        model = fill(_new("fm-tiny", config), _packaged_weights(), config.backbone)
    elif config.backbone in FETCHED:
        arch, usual_px = FETCHED[config.backbone]
        sized = replace(config, img_size=config.img_size or usual_px)
        model = fill(_new(arch, sized), _fetched_weights(config.backbone), config.backbone)
    elif config.backbone == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _new(config.arch, config)
    elif kind == "file" and name:
        model = fill(_new(config.arch, config), Path(name), config.backbone)
    elif kind == "hub" and name:
        model = _from_hub(name, config)
    else:
        named = ", ".join(("fm-tiny", *FETCHED))
        accepted = f"accepted: {named}, random, file:<safetensors>, hub:<timm name>"
        raise ConfigError("model.backbone", config.backbone, accepted)
    return model


@functools.lru_cache(maxsize=32)
def _check_arch(config: ModelConfig, name: str, field: str) -> None:
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
    _check_kind(config, name, field, value)


def _check_kind(config: ModelConfig, name: str, field: str, value: str) -> None:
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


def _new(arch: str, config: ModelConfig, pretrained: bool = False) -> Backbone:
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


def _from_hub(name: str, config: ModelConfig) -> Backbone:
    try:
        return _new(name, config, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:
        remedy = "they need a network connection to the hub, or model.backbone = file:<safetensors>"
        said = f"its weights are not to be had ({type(error).__name__}); {remedy}"
        raise ConfigError("model.backbone", config.backbone, said) from error


def _packaged_weights() -> Path:
    # Flower's app bundle carries code only, and its copy of this package comes first on sys.path:
    # the weights may lie beside a later copy.
    paths = (Path(entry or ".") / FM_TINY_FILE for entry in sys.path)
    if (found := next(filter(Path.is_file, paths), None)) is not None:
        return found
    remedy = "is nowhere on sys.path; `pip install` this package where the node runs"
    raise ConfigError("model.backbone", "fm-tiny", f"{FM_TINY_FILE} {remedy}")


def _fetched_weights(name: str) -> Path:
    if (found := fetched_file(name)).is_file():
        return found
    raise ConfigError("model.backbone", name, f"is not here yet: say `make {name}` once")
