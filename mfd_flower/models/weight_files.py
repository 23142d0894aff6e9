"""Backbone weights from a safetensors file, fitted to the shape that the settings ask for.

timm's own filters do the fitting: positions of another grid are resampled, patch projections of
another size too, names of the published checkpoints are translated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from mfd_flower.checks import ConfigError
from mfd_flower.models.trunk import is_trunk
from mfd_flower.models.tuned import Backbone, PlainBackbone

BackboneT = TypeVar("BackboneT", bound=Backbone)


def fill(model: BackboneT, path: Path, value: str) -> BackboneT:
    """Overwrite a backbone's weights with those of a file; returns it.

    `value` is what the settings say of the file. Raises ConfigError, and changes nothing, if the
    file is no safetensors file, lacks a tensor, has one that cannot be fitted, or holds values that
    are not finite. Tensors that the backbone does not have are passed over.
    """
    network = model.network if isinstance(model, PlainBackbone) else model
    weights = _fitted(network, _read(path, value), value)
    own = network.state_dict()
    for name, tensor in own.items():
        shape = tuple(tensor.shape)
        found = tuple(weights[name].shape) if name in weights else None
        if found != shape:
            said = f"needs {name} of shape {shape}, the file has {found}"
            raise ConfigError("model.backbone", value, said)
        if not torch.isfinite(weights[name]).all():
            raise ConfigError("model.backbone", value, f"{name} has values that are not finite")
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    return model


def _read(path: Path, value: str) -> dict[str, Tensor]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("no regular file")  # A pipe would be waited for.
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("model.backbone", value, f"not a safetensors file ({reason})") from error
    # Resampling half precision would round twice.
    return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}


def _fitted(model: nn.Module, weights: dict[str, Tensor], value: str) -> dict[str, Tensor]:
    weights |= _adapted_stem(model, weights, value)
    trained = getattr(model, "pretrained_cfg", None) or {}
    convert: Callable[..., dict[str, Tensor]] = checkpoint_filter_fn if is_trunk(model) else _as_is
    if (arch := trained.get("architecture")) is not None:
        module = sys.modules[timm.model_entrypoint(arch).__module__]
        convert = getattr(module, "checkpoint_filter_fn", convert)
    try:
        return convert(weights, model)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError("model.backbone", value, f"does not fit the model ({reason})") from error


def _as_is(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return weights


def _adapted_stem(model: nn.Module, weights: dict[str, Tensor], value: str) -> dict[str, Tensor]:
    """Return the first convolution for as many channels as `model` has, as timm adapts its own."""
    trained = getattr(model, "pretrained_cfg", None) or {}
    name = f"{trained.get('first_conv', 'patch_embed.proj')}.weight"
    own, found = model.state_dict().get(name), weights.get(name)
    if own is None or found is None or found.ndim != 4 or found.shape[1] == own.shape[1]:
        return {}
    channels = (own.shape[1], found.shape[1])
    if channels[1] != 3:
        said = "takes images of {} channels, the weights are of {}; only weights of 3 are adapted"
        raise ConfigError("model.backbone", value, said.format(*channels))
    return {name: adapt_input_conv(channels[0], found)}
