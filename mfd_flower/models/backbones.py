"""Vision transformers from timm, loaded once a process and shared read-only.

`fm-tiny` is the package's own small foundation model (`experiments/pretrain_fm_tiny.py`); any timm
VisionTransformer takes its place by `hub:<timm name>` or `file:<safetensors>`.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from weakref import WeakKeyDictionary

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.packets.digest import version_digest

FM_TINY_FILE = "mfd_flower/models/weights/fm_tiny.safetensors"


def new_fm_tiny() -> VisionTransformer:
    """Return fm-tiny without its weights: 28 px grey images, 16 patches, 6 blocks of width 96."""
    return VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, embed_dim=96, depth=6, num_heads=3, num_classes=0
    )


def load_backbone(config: ModelConfig, seed: int = 0) -> VisionTransformer:
    """Return the frozen backbone that `config` names, in eval mode; one object a process.

    `seed` draws the weights of ``random``. Raises ConfigError if there is no such model, or its
    weights are missing, broken, or of another shape.
    """
    return _load(config.backbone, config.arch, seed if config.backbone == "random" else 0)


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
def _load(backbone: str, arch: str, seed: int) -> VisionTransformer:
    kind, _, name = backbone.partition(":")
    if backbone == "fm-tiny":
        model = _with_weights(new_fm_tiny(), _packaged_weights(), backbone)
    elif backbone == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _new(arch)
    elif kind == "file" and name:
        model = _with_weights(_new(arch), Path(name), backbone)
    elif kind == "hub" and name:
        model = _from_hub(name)
    else:
        accepted = "accepted: fm-tiny, random, file:<safetensors>, hub:<timm name>"
        raise ConfigError("model.backbone", backbone, accepted)
    return model.requires_grad_(False).eval()


def backbone_digest(backbone: VisionTransformer) -> str:
    """Return the digest of a backbone's weights, 64 hexadecimal digits."""
    return version_digest(backbone.state_dict())


def _new(arch: str) -> VisionTransformer:
    if arch == "fm-tiny":
        return new_fm_tiny()
    if not timm.is_model(arch):
        raise ConfigError("model.arch", arch, "accepted: fm-tiny or a name from timm.list_models()")
    return _vision_transformer(timm.create_model(arch, num_classes=0), "model.arch", arch)


def _from_hub(name: str) -> VisionTransformer:
    field, value = "model.backbone", f"hub:{name}"
    if not timm.is_model(name):
        raise ConfigError(field, value, "no timm model of this name")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        remedy = "they need a network connection to the hub, or model.backbone = file:<safetensors>"
        said = f"its weights are not to be had ({type(error).__name__}); {remedy}"
        raise ConfigError(field, value, said) from error
    return _vision_transformer(model, field, value)


def _vision_transformer(model: object, field: str, value: str) -> VisionTransformer:
    if not isinstance(model, VisionTransformer):
        raise ConfigError(field, value, "not a timm VisionTransformer")
    return model


def _packaged_weights() -> Path:
    # Flower's app bundle carries code only, and its copy of this package comes first on sys.path:
    # the weights may lie beside a later copy.
    paths = (Path(entry or ".") / FM_TINY_FILE for entry in sys.path)
    if (found := next(filter(Path.is_file, paths), None)) is not None:
        return found
    remedy = "is nowhere on sys.path; `pip install` this package where the node runs"
    raise ConfigError("model.backbone", "fm-tiny", f"{FM_TINY_FILE} {remedy}")


def _with_weights(model: VisionTransformer, path: Path, value: str) -> VisionTransformer:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("model.backbone", value, f"not a safetensors file ({reason})") from error
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        found = tuple(weights[name].shape) if name in weights else None
        if found != shape:
            said = f"needs {name} of shape {shape}, the file has {found}"
            raise ConfigError("model.backbone", value, said)
        tensor.copy_(weights[name])
    return model
