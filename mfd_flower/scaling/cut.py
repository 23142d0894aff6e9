r"""A smaller vision transformer out of a larger one: fewer heads, hidden units and blocks.

Tokens stay as wide as they are, so that prompts and head fit both. Within a block the heads and
hidden units of the largest importance stay. A group's importance is the product of the norms of
what makes it and of what reads it, which bounds what it adds to a token, and needs no data, so that
all nodes find the same ones: magnitude of coupled weights, as Fang et al. 2023, *DepGraph* (arXiv
2301.12900, section 3.3), rank groups. Of the blocks those at even distances stay (Fan et al. 2020,
*LayerDrop*, arXiv 1909.11556, section 3.2: "every other").

The sets of two sizes contain each other: sizes are **nested** as in Devvrit et al. 2023,
*MatFormer* (arXiv 2310.07707), and what a small model has learned is put back into the large one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mfd_flower.scaling.resized import AnyModel, deep_in, is_prompted, resized
from mfd_flower.scaling.sizes import Size, SizeError, base_layer, size_of, trunk_of
from mfd_flower.scaling.transforms import IN_BLOCK


@dataclass(frozen=True)
class Cut:
    """What of a model stays in a smaller one; see the module."""

    whole: Size
    part: Size
    heads: tuple[tuple[int, ...], ...]
    """Of each block of the whole those that stay, rising."""
    hidden: tuple[tuple[int, ...], ...]
    deep: bool = True
    """Whether each block has prompts of its own."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_dim: int | None = None,
    ) -> Self:
        """Choose what stays in a model of such a size; what is not given stays as it is.

        Raises
        ------
        SizeError
            For a model of another kind, see `size_of`, or a size that is no smaller one.
        """
        whole = size_of(model)
        told = {"depth": depth, "num_heads": num_heads, "mlp_dim": mlp_dim}
        wanted = {n: getattr(whole, n) if value is None else value for n, value in told.items()}
        for name, value in wanted.items():
            if not 1 <= value <= getattr(whole, name):
                raise SizeError(f"{name} = {value}: must be from 1 to {getattr(whole, name)}")
        part = Size(whole.embed_dim, head_dim=whole.head_dim, **wanted)
        blocks = [cast(Any, block) for block in trunk_of(model).blocks]
        heads = tuple(_largest(_heads_importance(block), part.num_heads) for block in blocks)
        hidden = tuple(_largest(_hidden_importance(block), part.mlp_dim) for block in blocks)
        return cls(whole, part, heads, hidden, deep_in(model))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Block of the whole that each block of the part is."""
        return tuple(new * self.whole.depth // self.part.depth for new in range(self.part.depth))

    def level(self, blocks: int) -> int:
        """Return how many blocks of the part stand among the first so many of the whole."""
        return sum(old < blocks for old in self.blocks)

    def taken(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return parameters or tunables of the part, of those of the whole."""
        found = {}
        for name, tensor in tensors.items():
            if (place := self._place(name)) is not None:
                into, block = place
                for dim, index in self._rows(name, block, tensor).items():
                    tensor = tensor.index_select(dim, index)
                found[into] = tensor.clone()
        return found

    def put_back(
        self, part: Mapping[str, Tensor], whole: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the whole's with what the part has made of its share; the rest is as it was."""
        found = {}
        for name, tensor in whole.items():
            place = self._place(name)
            if place is None or place[0] not in part:
                found[name] = tensor.clone()
                continue
            new, rows = part[place[0]], self._rows(name, place[1], tensor)
            if not rows:
                found[name] = new.clone()
                continue
            ((dim, index),) = rows.items()
            found[name] = tensor.index_copy(dim, index, new.to(tensor))
        return found

    def _place(self, name: str) -> tuple[str, int] | None:
        """Return a parameter's name in the part and its block in the whole, None if it goes."""
        match = IN_BLOCK.fullmatch(name)
        if match is None:
            return name, -1
        block = int(match[2])
        if match[1] == "prompts" and not self.deep:
            # They are put in once, before whatever block comes next.
            return f"prompts.{min(self.level(block), self.part.depth - 1)}", -1
        if block not in self.blocks:
            return None
        new = self.blocks.index(block)
        return f"{match[1]}.{new}{match[3]}{match[4]}", block

    def _rows(self, name: str, block: int, tensor: Tensor) -> dict[int, Tensor]:
        """Return which rows of which dimension of a block's parameter stay; nothing: all."""
        if block < 0 or name.startswith("prompts."):
            return {}
        reads, writes = "lora_B" not in name, "lora_A" not in name
        if ".qkv." in name and writes:
            return {0: self._of_heads(block, 3).to(tensor.device)}
        if ".attn.proj." in name and reads and tensor.ndim == 2:
            return {1: self._of_heads(block, 1).to(tensor.device)}
        hidden = torch.tensor(self.hidden[block], device=tensor.device)
        if ".mlp.fc1." in name and writes:
            return {0: hidden}
        return {1: hidden} if ".mlp.fc2." in name and reads and tensor.ndim == 2 else {}

    def _of_heads(self, block: int, parts: int) -> Tensor:
        """Return the units of the heads that stay, in each of so many parts behind each other."""
        width, size = self.whole.head_dim, self.whole.num_heads * self.whole.head_dim
        units = torch.tensor(self.heads[block])[:, None] * width + torch.arange(width)
        return torch.cat([part * size + units.flatten() for part in range(parts)])


def cut(model: AnyModel, how: Cut) -> AnyModel:
    """Return the smaller model; the one given stays as it is."""
    made = resized(model, how.blocks, how.part, how.taken(model.state_dict()))
    if is_prompted(made):
        around = cast(Any, made)
        levels = tuple(how.level(level) for level in around.levels)
        if len({*levels}) < len(levels):
            said = f"too few for levels behind {', '.join(map(str, around.levels))} blocks"
            raise SizeError(f"depth = {how.part.depth}: {said}")
        around.levels = levels
        around.prompt_from = min(how.level(around.prompt_from), how.part.depth - 1)
    return made


def _largest(importance: Tensor, count: int) -> tuple[int, ...]:
    """Return the places of the largest values, rising; of equal ones the first."""
    order = torch.argsort(importance, descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def _heads_importance(block: Any) -> Tensor:
    attention = block.attn
    made = base_layer(attention.qkv).weight.detach().double()
    values = made.chunk(3)[2].unflatten(0, (attention.num_heads, -1))
    read = base_layer(attention.proj).weight.detach().double()
    reads = read.unflatten(1, (attention.num_heads, -1))
    return values.flatten(1).norm(dim=1) * reads.transpose(0, 1).flatten(1).norm(dim=1)


def _hidden_importance(block: Any) -> Tensor:
    made = base_layer(block.mlp.fc1).weight.detach().double()
    read = base_layer(block.mlp.fc2).weight.detach().double()
    return made.norm(dim=1) * read.norm(dim=0)
