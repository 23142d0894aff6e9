r"""Every parameter of a model of one size as that of another one, by its name: there and back.

Tokens are rows of `embed_dim` numbers that each block reads through a layer norm and adds to. With
means among them (`Spread.residual`) a norm's gamma is multiplied by the root of the share ``c`` of
the row that is no mean, and its epsilon by ``c``: ``sqrt(c) (x - m) / sqrt(c v + c e)`` is what it
was. Queries carry their shares and ``sqrt(wider / head_dim)``, since attention divides by the root
of the width of a head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mfd_flower.scaling.sizes import Size, SizeError
from mfd_flower.scaling.spread import Spread, of_heads

IN_BLOCK = re.compile(r"((?:backbone\.)?blocks|prompts)\.(\d+)(\.?)(.*)")
ENDS_BRANCH = ("attn.proj.", "mlp.fc2.")
"""What a residual branch ends with: at zero a block leaves its tokens as they are."""


@dataclass(frozen=True)
class Transform:
    """From one size to another that is at least as large."""

    small: Size
    large: Size
    deep: bool = True
    """Whether each block has prompts of its own."""

    @cached_property
    def tokens(self) -> Spread:
        """Of the row that a token is."""
        return Spread.residual(self.small.embed_dim, self.large.embed_dim)

    @cached_property
    def hidden(self) -> Spread:
        """Of an MLP's units."""
        return Spread.repeated(self.small.mlp_dim, self.large.mlp_dim)

    @cached_property
    def values(self) -> Spread:
        """Of all heads' values, keys and queries in a row."""
        small, large = self.small, self.large
        return of_heads(small.num_heads, small.head_dim, large.num_heads, large.head_dim)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Old block of each new one: the first of equal ones is that block, the others are idle."""
        small, large = self.small.depth, self.large.depth
        return tuple(new * small // large for new in range(large))

    def first(self, block: int) -> int:
        """Return where an old block stands."""
        return self.blocks.index(block)

    def level(self, blocks: int) -> int:
        """Return behind how many new blocks tokens are what they were behind so many old ones."""
        return self.first(blocks) if blocks < self.small.depth else self.large.depth

    def grown(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return parameters or tunables of the large size, of those of the small one."""
        found = {}
        for name, tensor in tensors.items():
            for new, into in self._into(name):
                grown = self._grown(name, tensor, tensors)
                idle = new is not None and new != self.first(self.blocks[new])
                ends = any(end in name for end in ENDS_BRANCH)
                found[into] = torch.zeros_like(grown) if idle and ends else grown
        return found

    def shrunk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return parameters or tunables of the small size: the mean of copies, sums of shares."""
        found = {}
        for name, tensor in tensors.items():
            match = IN_BLOCK.fullmatch(name)
            if match is None:
                found[name] = self._shrunk(name, tensor)
            elif (new := int(match[2])) == self.first(old := self.blocks[new]):
                into = f"{match[1]}.{old}{match[3]}{match[4]}"
                found[into] = self._shrunk(name, tensor)
        return found

    def _into(self, name: str) -> list[tuple[int | None, str]]:
        """Return the new block, if it is in one, and name of all that a parameter becomes."""
        match = IN_BLOCK.fullmatch(name)
        if match is None:
            return [(None, name)]
        places = [new for new, old in enumerate(self.blocks) if old == int(match[2])]
        if match[1] == "prompts" and not self.deep:
            places = places[:1]
        return [(new, f"{match[1]}.{new}{match[3]}{match[4]}") for new in places]

    def _grown(self, name: str, tensor: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        kind = _kind(name)
        if kind == "tokens":
            return self.tokens.written(tensor, -1)
        if kind == "patches":
            return self.tokens.written(tensor, 0)
        if kind == "norm":
            return self._norm(name, tensor)
        if kind == "scale":
            ones = tensor.new_ones(self.tokens.means)
            return torch.cat([self.tokens.written(tensor, 0)[: len(self.tokens.source)], ones])
        if kind == "qkv":
            rows = self._qkv(tensor)
            return self.tokens.read(rows, 1) if tensor.ndim == 2 and "lora_B" not in name else rows
        if kind == "branch":
            inner = self.hidden if ".mlp." in name else self.values
            columns = inner.read(tensor, 1) if tensor.ndim == 2 else tensor
            return self._branch(name, columns, others)
        if kind == "hidden":
            rows = self.hidden.written(tensor, 0)
            return self.tokens.read(rows, 1) if tensor.ndim == 2 else rows
        if kind == "reads":
            return self._reads(tensor)
        return tensor.clone()

    def _shrunk(self, name: str, tensor: Tensor) -> Tensor:
        kind = _kind(name)
        if kind == "tokens":
            return self.tokens.back_written(tensor, -1)
        if kind in ("patches", "scale"):
            return self.tokens.back_written(tensor, 0)
        if kind == "norm":
            found = self.tokens.back_written(tensor, 0)
            return found / math.sqrt(self.tokens.copied) if name.endswith("weight") else found
        if kind == "qkv":
            reads = tensor.ndim == 2 and "lora_B" not in name
            return self._back_qkv(self.tokens.back_read(tensor, 1) if reads else tensor)
        if kind == "branch":
            inner = self.hidden if ".mlp." in name else self.values
            columns = inner.back_read(tensor, 1) if tensor.ndim == 2 else tensor
            return self.tokens.back_written(columns, 0)
        if kind == "hidden":
            columns = self.tokens.back_read(tensor, 1) if tensor.ndim == 2 else tensor
            return self.hidden.back_written(columns, 0)
        if kind == "reads":
            parts = tensor.split(self.large.embed_dim, 1)
            return torch.cat([self.tokens.back_read(part, 1) for part in parts], 1)
        return tensor.clone()

    def _norm(self, name: str, tensor: Tensor) -> Tensor:
        if not name.endswith("weight"):
            copies = self.tokens.written(tensor, 0)[: len(self.tokens.source)]
            return torch.cat([copies, tensor.new_zeros(self.tokens.means)])
        return self.tokens.written(tensor, 0) * math.sqrt(self.tokens.copied)

    def _branch(self, name: str, tensor: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        """Write to tokens; the means of what a layer scale makes of it, where there is one."""
        grown = self.tokens.written(tensor, 0)
        before, _, _ = name.rpartition("attn." if "attn." in name else "mlp.")
        scale = others.get(f"{before}{'ls1' if 'attn.' in name else 'ls2'}.gamma")
        if scale is None or not self.tokens.means:
            return grown
        shape = (-1, *[1] * (tensor.ndim - 1))
        mean = (scale.view(shape) * tensor).mean(0, keepdim=True)
        kept = grown[: len(self.tokens.source)]
        return torch.cat([kept, mean.repeat_interleave(self.tokens.means, 0)])

    def _qkv(self, tensor: Tensor) -> Tensor:
        queries, keys, values = tensor.chunk(3)
        wider = math.sqrt(self.large.head_dim / self.small.head_dim)
        parts = (
            self._queries(queries) * wider,
            *(self.values.written(t, 0) for t in (keys, values)),
        )
        return torch.cat(parts)

    def _queries(self, tensor: Tensor) -> Tensor:
        """Copy heads whole, and share a unit's weight among its copies within a head."""
        units = Spread.repeated(self.small.head_dim, self.large.head_dim)
        heads = Spread.repeated(self.small.num_heads, self.large.num_heads)
        apart = tensor.unflatten(0, (self.small.num_heads, self.small.head_dim))
        return heads.written(units.scaled(apart, 1), 0).flatten(0, 1)

    def _back_qkv(self, tensor: Tensor) -> Tensor:
        queries, keys, values = tensor.chunk(3)
        units = Spread.repeated(self.small.head_dim, self.large.head_dim)
        heads = Spread.repeated(self.small.num_heads, self.large.num_heads)
        apart = queries.unflatten(0, (self.large.num_heads, self.large.head_dim))
        narrower = math.sqrt(self.small.head_dim / self.large.head_dim)
        back = units.back_read(heads.back_written(apart, 0), 1).flatten(0, 1) * narrower
        return torch.cat([back, *(self.values.back_written(t, 0) for t in (keys, values))])

    def _reads(self, tensor: Tensor) -> Tensor:
        """Grow what reads tokens, of one place or of several in a row, as a head of levels does."""
        if tensor.shape[1] > self.small.embed_dim and self.tokens.means:
            said = f"must be a multiple of {self.small.embed_dim} where a head reads levels"
            raise SizeError(f"embed_dim = {self.large.embed_dim}: {said}")
        parts = tensor.split(self.small.embed_dim, 1)
        return torch.cat([self.tokens.read(part, 1) for part in parts], 1)


def _kind(name: str) -> str:
    """Return what a parameter does: writes tokens, reads them, or neither."""
    end = name.removeprefix("backbone.")
    if end.startswith("prompts.") or end in ("cls_token", "reg_token", "pos_embed"):
        return "tokens"
    if end.startswith("patch_embed."):
        return "patches"
    if re.search(r"(^|\.)(norm|norm1|norm2|norm_pre|fc_norm)\.(weight|bias)$", end):
        return "norm"
    if end.endswith(".gamma"):
        return "scale"
    if ".qkv." in end:
        return "reads" if "lora_A" in end else "qkv"
    if any(part in end for part in ENDS_BRANCH):
        return "branch"
    if ".mlp.fc1." in end:
        return "hidden"
    return "reads" if end == "head.weight" else "same"
