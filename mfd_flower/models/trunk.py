"""timm's token transformers seen alike: images to tokens, and blocks that take and give tokens.

A VisionTransformer adds positions to its tokens once. Eva (EVA02, DINOv3, RoPE-ViT, Perception
Encoder) also turns the queries and keys of its patches in every block by angles that depend on
where they lie (Su et al. 2021, *RoFormer*, arXiv 2104.09864, section 3.2); timm hands each block a
rotation ``(patches, 2 * head_dim)``, sines then cosines, and leaves prefix tokens as they are.
Beit adds a learned bias for each pair of its own tokens to every attention: no prompt fits in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mfd_flower.checks import ConfigError

Trunk = VisionTransformer | Eva | Beit
ROTARY = "rope"
"""The part of an Eva that every block needs: it makes the rotations."""
REASONS = {
    "VisionTransformerRelPos": "its blocks take a bias for each pair of patches beside the tokens",
    "Cait": "its class token meets the patches only behind the blocks",
    "Xcit": "its class token meets the patches only behind the blocks",
    "NaFlexVit": "it takes patches of any number, not images",
}
"""What is in the way, by timm's class; of others, that they have no such blocks."""


def is_trunk(model: nn.Module) -> bool:
    """Tell whether a model's blocks take and give tokens as `embed` expects it."""
    # A subclass may go through its blocks in a way of its own.
    known = (VisionTransformer.forward_features, Eva.forward_features, Beit.forward_features)
    return getattr(type(model), "forward_features", None) in known


def checked_trunk(model: nn.Module, field: str, value: str) -> Trunk:
    """Return a timm model whose blocks take and give tokens; ConfigError for any other."""
    if is_trunk(model):
        return model  # type: ignore[return-value]
    kind = type(getattr(model, "network", model)).__name__
    reason = REASONS.get(kind, "it has no row of blocks that take and give tokens")
    accepted = "VisionTransformer, Eva, Beit; any other where model.tune is head or full"
    raise ConfigError(field, value, f"is timm's {kind}: {reason}; accepted: {accepted}")


def takes_prompts(trunk: Trunk) -> bool:
    """Return whether blocks take more tokens than the backbone's own."""
    return not isinstance(trunk, Beit)


def patch_size_px(trunk: Trunk) -> tuple[int, int]:
    """Return height and width in pixels of what becomes a token, stem included."""
    # An int only if asked as one.
    height, width = cast(tuple[int, int], trunk.patch_embed.feat_ratio(as_scalar=False))
    return height, width


def grid_size(trunk: Trunk) -> tuple[int, int]:
    """Return how many patches an image has, in height and width."""
    height, width = trunk.patch_embed.grid_size
    return int(height), int(width)


def embed(trunk: Trunk, images: Tensor) -> Tensor:
    """Map images to the tokens before the first block, ``(batch, tokens, dim)``."""
    if isinstance(trunk, Beit):
        patches = trunk.patch_embed(images)
        tokens = torch.cat([trunk.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return trunk.pos_drop(tokens if trunk.pos_embed is None else tokens + trunk.pos_embed)
    placed = trunk._pos_embed(trunk.patch_embed(images))
    # Eva returns the rotation beside the tokens, and has dropped patches already.
    return trunk.norm_pre(placed[0] if isinstance(placed, tuple) else trunk.patch_drop(placed))


def rotation(trunk: Trunk, grid: Sequence[int]) -> Tensor | None:
    """Return how the patches of a `grid` are turned, None where positions are only added.

    ``(patches, 2 * head_dim)``, or ``(depth, heads, patches, 2 * head_dim)`` where each block
    learned its own.
    """
    rotary = getattr(trunk, ROTARY, None)
    return None if rotary is None else rotary.get_embed(shape=list(grid))


def with_unturned(rotation: Tensor, count: int) -> Tensor:
    """Put `count` rows in front of a rotation that turn nothing: sine 0, cosine 1."""
    rows = rotation.new_zeros(*rotation.shape[:-2], count, rotation.shape[-1])
    rows[..., rotation.shape[-1] // 2 :] = 1
    return torch.cat([rows, rotation], dim=-2)
