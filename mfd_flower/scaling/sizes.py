"""How large a vision transformer is, and which larger sizes it can have."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, cast

from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import nn


class SizeError(ValueError):
    """A size that a model cannot have, or a model that has none."""


@dataclass(frozen=True)
class Size:
    """Width, depth, and what stands inside a block."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    """Hidden units of a block's MLP."""
    head_dim: int = 0
    """Width of an attention head; without it all heads together are as wide as a token."""

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.embed_dim // self.num_heads)

    def check_reaches(self, other: Size) -> None:
        """Raise `SizeError`, naming the field, if a model of this size cannot grow to another."""
        for field in fields(self)[:4]:
            here, there = getattr(self, field.name), getattr(other, field.name)
            if there < here:
                raise SizeError(f"{field.name} = {there}: must be at least {here}, what it is now")
        if other.embed_dim % other.num_heads:
            said = f"must divide embed_dim = {other.embed_dim}"
            raise SizeError(f"num_heads = {other.num_heads}: {said}")
        if other.head_dim < self.head_dim:
            most = other.embed_dim // self.head_dim
            said = f"at most {most}, since heads of {self.head_dim} do not get narrower"
            raise SizeError(f"num_heads = {other.num_heads}: {said}")


def size_of(model: nn.Module) -> Size:
    """Return a model's size; `SizeError` if it is none of timm's plain vision transformers."""
    trunk = trunk_of(model)
    block = cast(Any, trunk.blocks[0])
    hidden, attention = base_layer(block.mlp.fc1).out_features, block.attn
    sizes = (trunk.embed_dim, len(trunk.blocks), attention.num_heads, hidden)
    return Size(*sizes, attention.head_dim)


def trunk_of(model: nn.Module) -> VisionTransformer:
    """Return a model's transformer, or the model if it is one, if its parts are those that grow."""
    trunk = getattr(model, "backbone", model)
    # A subclass may go through its blocks in a way of its own.
    if type(trunk) is not VisionTransformer:
        raise SizeError(f"model is {type(trunk).__name__}: accepted: timm's VisionTransformer")
    for name, module in trunk.named_modules():
        if isinstance(module, Attention) and not _plain(module):
            raise SizeError(f"{name}: attention with norms or gates of its own does not grow")
    for index, block in enumerate(trunk.blocks):
        if (
            type(block) is not Block
            or type(block.mlp) is not Mlp
            or type(block.attn) is not Attention
        ):
            raise SizeError(f"blocks.{index}: accepted: timm's Block with Attention and Mlp")
        if not isinstance(block.mlp.norm, nn.Identity):
            raise SizeError(f"blocks.{index}.mlp: a norm within does not grow")
        for scale in (block.ls1, block.ls2):
            if not isinstance(scale, LayerScale | nn.Identity):
                raise SizeError(f"blocks.{index}: {type(scale).__name__} does not grow")
    if not isinstance(trunk.patch_embed.norm, nn.Identity):
        raise SizeError("patch_embed.norm: a norm of patches does not grow")
    if not (hasattr(trunk.patch_embed, "proj") and isinstance(trunk.patch_embed.proj, nn.Conv2d)):
        raise SizeError("patch_embed: accepted: one convolution")
    if trunk.attn_pool is not None:
        raise SizeError("attn_pool: pooling by attention does not grow")
    return trunk


def base_layer(module: nn.Module) -> nn.Linear:
    """Return a linear layer, also where LoRA stands around it."""
    found = getattr(module, "base_layer", module)
    assert isinstance(found, nn.Linear)
    return found


def _plain(attention: Attention) -> bool:
    norms = (attention.q_norm, attention.k_norm, attention.norm)
    return all(isinstance(norm, nn.Identity) for norm in norms) and attention.gate is None
