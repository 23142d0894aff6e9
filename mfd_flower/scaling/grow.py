"""A larger vision transformer that is the same function.

Whitepaper, section 2.4: "a global size W0 travels; a strong node grows it to W+1". Width and depth
grow exactly, without training, and copies learn apart afterwards.
"""

from __future__ import annotations

import math
from typing import Any, cast

from torch import nn

from mfd_flower.scaling.resized import (
    GROWN_FROM,
    AnyModel,
    deep_in,
    is_prompted,
    resized,
    scale_epsilons,
)
from mfd_flower.scaling.sizes import Size, SizeError, size_of, trunk_of
from mfd_flower.scaling.transforms import Transform


def grow(
    model: AnyModel,
    *,
    embed_dim: int | None = None,
    depth: int | None = None,
    mlp_ratio: float | None = None,
    num_heads: int | None = None,
) -> AnyModel:
    """Return a larger model that gives the same logits; the one given stays as it is.

    Parameters
    ----------
    model
        timm's VisionTransformer with plain blocks, or a `PromptedViT` around one, with its prompts,
        LoRA and head.
    embed_dim, depth
        Of the new one, at least what they are.
    mlp_ratio
        Hidden units of an MLP over `embed_dim`; the model's own without it.
    num_heads
        At least as many, and heads do not get narrower; without it as many as there can be.

    Raises
    ------
    SizeError
        For a model that is none of these, or a size that it cannot grow to.
    """
    small = size_of(model)
    large = _wanted(small, embed_dim, depth, mlp_ratio, num_heads)
    if small.num_heads * small.head_dim != small.embed_dim:
        said = "a model of which heads were cut does not grow"
        raise SizeError(f"num_heads = {small.num_heads}: {said}")
    small.check_reaches(large)
    change = Transform(small, large, deep_in(model))
    if change.tokens.means and not isinstance(trunk_of(model).norm_pre, nn.Identity):
        said = f"must be a multiple of {small.embed_dim} where a norm stands before the blocks"
        raise SizeError(f"embed_dim = {large.embed_dim}: {said}")
    grown = resized(model, change.blocks, large, change.grown(model.state_dict()))
    vars(trunk_of(grown))[GROWN_FROM] = small
    scale_epsilons(grown, change.tokens.copied)
    if is_prompted(grown):
        around = cast(Any, grown)
        around.levels = tuple(change.level(level) for level in around.levels)
        around.prompt_from = change.first(around.prompt_from)
    return grown


def _wanted(
    small: Size,
    embed_dim: int | None,
    depth: int | None,
    mlp_ratio: float | None,
    num_heads: int | None,
) -> Size:
    width = small.embed_dim if embed_dim is None else embed_dim
    ratio = small.mlp_dim / small.embed_dim if mlp_ratio is None else mlp_ratio
    if not math.isfinite(ratio) or ratio <= 0:
        raise SizeError(f"mlp_ratio = {ratio}: must be a number above 0")
    heads = _most_heads(small, width) if num_heads is None else num_heads
    if heads < 1:
        raise SizeError(f"num_heads = {heads}: must be at least {small.num_heads}")
    return Size(width, small.depth if depth is None else depth, heads, int(width * ratio))


def _most_heads(small: Size, width: int) -> int:
    """Return as many heads as divide a width and are as wide as they were."""
    most = range(width // small.head_dim, small.num_heads - 1, -1)
    return next((heads for heads in most if width % heads == 0), small.num_heads)
