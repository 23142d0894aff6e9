r"""How a row of units becomes a longer one that means the same, and comes back.

Chen et al. 2016, *Net2Net* (arXiv 1511.05641, section 3.1): units are copied, and what reads them
shares a unit's weight among its copies. Wang et al. 2023, *LEMON* (arXiv 2310.07999, section 4): in
front of a layer norm the units that do not fill up another copy of the whole row are its mean, so
that centred they are nothing, and the variance is ``copied / wider`` of what it was.

Shares are unequal, and other ones for each weight: equal copies would get equal gradients, and stay
equal under whatever optimiser. They follow from the shapes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

UNEVEN = 0.5
"""By which share of an even part the parts of a weight differ from it at most."""


@dataclass(frozen=True)
class Spread:
    """Units `source` of an old row that stand in a new one, and how many means behind them."""

    units: int
    source: tuple[int, ...]
    """Old unit of each new one."""
    means: int = 0

    @classmethod
    def repeated(cls, units: int, wider: int) -> Spread:
        """Copy units in turn until the row is full."""
        return cls(units, tuple(new % units for new in range(wider)))

    @classmethod
    def residual(cls, units: int, wider: int) -> Spread:
        """Copy the whole row as often as it fits in; what is left are means."""
        copied = wider // units * units
        return cls(units, tuple(new % units for new in range(copied)), wider - copied)

    @property
    def wider(self) -> int:
        """Length of the new row."""
        return len(self.source) + self.means

    @property
    def copied(self) -> float:
        """Share of the new row that is no mean."""
        return len(self.source) / self.wider

    def written(self, tensor: Tensor, dim: int) -> Tensor:
        """Return what makes the new row, of what makes the old one along a dimension."""
        copies = tensor.index_select(dim, self._index_on(tensor))
        if not self.means:
            return copies
        mean = tensor.mean(dim, keepdim=True)
        return torch.cat([copies, mean.repeat_interleave(self.means, dim)], dim)

    def read(self, tensor: Tensor, dim: int) -> Tensor:
        """Return what reads the new row as `tensor` reads the old one."""
        moved = tensor.movedim(dim, -1)
        shares = self._shares(moved.shape[:-1].numel(), tensor)
        parts = moved[..., self._index_on(tensor)]
        parts = parts * shares.view(*moved.shape[:-1], len(self.source))
        nothing = moved.new_zeros(*moved.shape[:-1], self.means)
        return torch.cat([parts, nothing], -1).movedim(-1, dim)

    def scaled(self, tensor: Tensor, dim: int) -> Tensor:
        """Return `written`, each copy by its share: their sum over copies is the old row."""
        shares = self._shares(1, tensor)[0]
        shape = [1] * tensor.ndim
        shape[dim] = len(shares)
        return tensor.index_select(dim, self._index_on(tensor)) * shares.view(shape)

    def back_written(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the old row's writer: the mean of the copies."""
        return self.back_read(tensor, dim) / self._count(tensor, dim)

    def back_read(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the old row's reader, or what `scaled` gave: the sum over the copies."""
        shape = list(tensor.shape)
        shape[dim] = self.units
        kept = tensor.narrow(dim, 0, len(self.source))
        return tensor.new_zeros(shape).index_add_(dim, self._index_on(tensor), kept)

    def _count(self, tensor: Tensor, dim: int) -> Tensor:
        counts = torch.bincount(self._index, minlength=self.units).to(tensor)
        shape = [1] * tensor.ndim
        shape[dim] = self.units
        return counts.view(shape)

    @cached_property
    def _index(self) -> Tensor:
        return torch.tensor(self.source)

    def _index_on(self, tensor: Tensor) -> Tensor:
        return self._index.to(tensor.device)

    def _shares(self, rows: int, like: Tensor) -> Tensor:
        """Return parts, ``(rows, len(source))``, that add up to 1 over the copies of a unit."""
        drawn = torch.empty(rows, len(self.source), dtype=torch.float64)
        drawn.uniform_(1 - UNEVEN, 1 + UNEVEN, generator=torch.Generator().manual_seed(0))
        total = drawn.new_zeros(rows, self.units).index_add_(1, self._index, drawn)
        return (drawn / total[:, self._index]).to(like)


def of_heads(heads: int, head_dim: int, more: int, wider: int) -> Spread:
    """Spread ``(head, unit)`` pairs: heads are copied in turn, and units within each."""
    pairs = (
        (head % heads) * head_dim + unit % head_dim for head in range(more) for unit in range(wider)
    )
    return Spread(heads * head_dim, tuple(pairs))
