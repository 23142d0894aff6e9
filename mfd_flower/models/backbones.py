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

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.data.augmentation import process_generators
from mfd_flower.models.arch import check_arch, check_kind, new_backbone
from mfd_flower.models.of_size import SIZES, is_sized, of_size
from mfd_flower.models.trunk import checked_trunk
from mfd_flower.models.tuned import Backbone, PlainBackbone
from mfd_flower.models.weight_files import fill
from mfd_flower.packets.digest import version_digest
from mfd_flower.scaling.quantise import quantised

FM_TINY_FILE = "mfd_flower/models/weights/fm_tiny.safetensors"
FETCHED = {"vit-small": ("vit_small_patch14_dinov2", 112), "lite0": ("tf_efficientnet_lite0", 0)}
"""timm's name of what `make` fetches, and the side of its images where the settings name none."""


NORMALISED = {
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}
"""Means and deviations of the channels, by `ModelConfig.normalise`."""
SHAPE = ("arch", "img_size", "in_chans", "normalise", "blocks", "weights", "pooling", *SIZES)
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
    if config.weights == "int8" and config.tune not in ("prompts", "head"):
        raise ConfigError("model.weights", "int8", "accepted with tune = prompts or head")
    if kind in FETCHED:
        check_kind(config, FETCHED[kind][0], "model.backbone", kind)
    elif kind in ("random", "file"):
        check_arch(config, config.arch, "model.arch")
    elif kind == "hub" and name:
        check_arch(config, name, "model.backbone")
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


@functools.lru_cache(maxsize=16)
def _load(config: ModelConfig, seed: int) -> Backbone:
    if config.weights == "int8":
        return quantised(_load(replace(config, weights="fp32"), seed)).requires_grad_(False).eval()
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
        model = fill(new_backbone("fm-tiny", config), _packaged_weights(), config.backbone)
    elif config.backbone in FETCHED:
        arch, usual_px = FETCHED[config.backbone]
        sized = replace(config, img_size=config.img_size or usual_px)
        model = fill(new_backbone(arch, sized), _fetched_weights(config.backbone), config.backbone)
    elif config.backbone == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = new_backbone(config.arch, config)
    elif kind == "file" and name:
        model = fill(new_backbone(config.arch, config), Path(name), config.backbone)
    elif kind == "hub" and name:
        model = _from_hub(name, config)
    else:
        named = ", ".join(("fm-tiny", *FETCHED))
        accepted = f"accepted: {named}, random, file:<safetensors>, hub:<timm name>"
        raise ConfigError("model.backbone", config.backbone, accepted)
    return model


def _from_hub(name: str, config: ModelConfig) -> Backbone:
    try:
        return new_backbone(name, config, pretrained=True)
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
