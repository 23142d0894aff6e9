"""The modules of a model at another size, around the parameters that it is given."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mfd_flower.scaling.sizes import Size, trunk_of

GROWN_FROM = "grown_from"
"""Attribute of a transformer: its `Size` before it grew."""
AnyModel = TypeVar("AnyModel", bound=nn.Module)
"""timm's VisionTransformer, or a model around one with `prompts`, `deep`, `levels` and so on."""


def resized(
    model: AnyModel, blocks: Sequence[int], size: Size, tensors: Mapping[str, Tensor]
) -> AnyModel:
    """Return a copy of a model with these of its blocks, of another size.

    `tensors` are all its parameters by name. What trained trains.
    """
    made = copy.deepcopy(model)
    trunk = trunk_of(made)
    trunk.blocks = nn.Sequential(*(copy.deepcopy(trunk.blocks[old]) for old in blocks))
    if is_prompted(made):
        around = cast(Any, made)
        _set_prompts(around, tensors)
        around.depth, around.built_from = size.depth, None
    trained = {name: p.requires_grad for name, p in made.named_parameters()}
    for name, tensor in tensors.items():
        place, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=trained[name])
        setattr(made.get_submodule(place) if place else made, leaf, parameter)
    _describe(trunk, size)
    for module in made.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
    return made


def scale_epsilons(model: nn.Module, share: float) -> None:
    """Multiply the epsilon of every norm of tokens."""
    for module in trunk_of(model).modules():
        if isinstance(module, nn.LayerNorm):
            module.eps *= share


def is_prompted(model: nn.Module) -> bool:
    """Tell whether a model is one around a transformer, with prompts and a head."""
    return hasattr(model, "backbone")


def deep_in(model: nn.Module) -> bool:
    """Tell whether each block has prompts of its own, if there are any."""
    return getattr(model, "deep", True)


def _set_prompts(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Make room for the prompts that there will be, with gaps where there are none."""
    places = [int(n.removeprefix("prompts.")) for n in tensors if n.startswith("prompts.")]
    if not places:
        return
    trains = next(p.requires_grad for p in model.prompts if p is not None)
    rows = nn.ParameterList([None] * min(places))
    for place in range(min(places), max(places) + 1):
        rows.append(nn.Parameter(tensors[f"prompts.{place}"], requires_grad=trains))
    model.prompts = rows


def _describe(trunk: VisionTransformer, size: Size) -> None:
    """Say in numbers what the parameters' shapes are."""
    width = size.embed_dim
    trunk.embed_dim = trunk.num_features = trunk.head_hidden_size = width
    trunk.patch_embed.proj.out_channels = width
    for row in trunk.feature_info:
        row["num_chs"] = width
    for module in trunk.modules():
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = (width,)
        elif isinstance(module, Attention):
            module.num_heads, module.head_dim = size.num_heads, size.head_dim
            module.attn_dim = size.num_heads * size.head_dim
            module.scale = size.head_dim**-0.5
