"""The largest entries of an update, and the bytes that say where they stand.

Aji and Heafield 2017, *Sparse Communication for Distributed Gradient Descent* (arXiv 1704.05021),
over all tensors together. Positions travel as the gaps between them in a Rice code, or as a bitmap
where that is no longer; their length tells which.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.packets import rice
from mfd_flower.packets.frame import PacketError


def count_of(share: float, size: int) -> int:
    """Return how many entries of so many a share is, rounded up."""
    # The rounding keeps 0.07 x 100, of floats a little more than 7, at 7.
    return max(1, math.ceil(round(share * size, 6)))


def largest(values: Tensor, count: int) -> Tensor:
    """Return the ascending positions of the `count` largest magnitudes, of equal ones the first.

    `values` are finite, of shape ``(n,)``.
    """
    sizes = values.abs()
    least = sizes.topk(count).values.min()
    chosen, equal = sizes > least, (sizes == least).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.nonzero().flatten()


def positions_to_bytes(positions: NDArray[np.int64], size: int) -> bytes:
    """Return the bytes that stand for ascending positions below `size`."""
    gaps = np.diff(positions, prepend=-1) - 1
    # The code folds signs in, and no gap is negative: unfolded first, none wastes that bit.
    code = rice.encode((gaps >> 1) ^ -(gaps & 1))
    if len(code) < _bitmap_bytes(size):
        return code
    bits = np.zeros(size, bool)
    bits[positions] = True
    return np.packbits(bits).tobytes()


def positions_from_bytes(data: bytes, count: int, size: int) -> NDArray[np.int64]:
    """Return the `count` positions below `size` that bytes stand for.

    `PacketError` if they do not stand for so many; what is allocated is bounded by `size`.
    """
    if len(data) < _bitmap_bytes(size):
        signed = rice.decode(data, count, "gaps")
        gaps = (signed << 1) ^ (signed >> 63)
        if ((gaps < 0) | (gaps >= size)).any() or int(gaps.sum()) + count > size:
            raise PacketError(f"gaps: a position beyond the {size} entries")
        positions: NDArray[np.int64] = np.cumsum(gaps + 1) - 1
        return positions
    if len(data) != _bitmap_bytes(size):
        raise PacketError(f"bitmap: {len(data)} bytes, must be {_bitmap_bytes(size)}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    found = np.flatnonzero(bits)
    if len(found) != count or bits[size:].any():
        raise PacketError(f"bitmap: {len(found)} entries, must be {count} of {size}")
    return found


def _bitmap_bytes(size: int) -> int:
    return -(-size // 8)
