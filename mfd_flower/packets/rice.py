"""Whole numbers in few bits: Rice codes in blocks, as bit planes.

Rice 1979, *Some Practical Universal Noiseless Coding Techniques* (JPL 79-22): a number z is a
quotient ``z >> k`` in unary and a remainder of k bits, short where z is about 2^k. Signs are folded
in first (zigzag: 0, -1, 1, -2 ... become 0, 1, 2, 3 ...). Each `BLOCK` of numbers has the k that
makes it smallest. Quotients, and each bit of the remainders, lie in planes of their own, so that
both ways are a few operations on whole arrays; a quotient of `MOST` says that the number itself
follows in 64 bits, so that no number costs more than `MOST` + 65 bits and what is decoded is
bounded by what was sent.

One sequence of numbers has one encoding, and nothing else is decoded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfd_flower.packets.frame import PacketError

BLOCK = 128
MOST = 24
"""Quotients from here on are escapes."""
MOST_BITS = 62
"""Of a remainder; a number has at most 63 bits beside its sign."""


def encode(numbers: NDArray[np.int64]) -> bytes:
    """Return the code of numbers ``(n,)``; their count is for the reader to know.

    In a row: k of each block, one byte each; the quotients in unary, ones and then a zero; from the
    highest bit on a plane of each bit of the remainders, of the blocks that have it; escaped
    numbers, 8 bytes each, highest first. Each plane begins at a byte.
    """
    folded = _fold(numbers)
    shifts = _best_shifts(folded)
    each = shifts.repeat(BLOCK)[: len(folded)]
    quotients = np.minimum(folded >> each, MOST).astype(np.int64)
    unary = np.ones(int(quotients.sum()) + len(folded), bool)
    unary[np.cumsum(quotients + 1) - 1] = False
    plain = quotients < MOST
    remainders = (
        folded[plain & (each > bit)] >> np.uint64(bit) & np.uint64(1)
        for bit in range(int(shifts.max(initial=0)) - 1, -1, -1)
    )
    planes = [np.packbits(plane).tobytes() for plane in (unary, *remainders)]
    escaped = folded[~plain].astype(">u8").tobytes()
    return b"".join([shifts.astype(np.uint8).tobytes(), *planes, escaped])


def decode(data: bytes, count: int, name: str = "sums") -> NDArray[np.int64]:
    """Return the `count` numbers of a code; raises `PacketError` if it is not exactly theirs.

    `name` is what an error calls them.
    """
    source = _Source(data, name)
    shifts = source.take(-(-count // BLOCK)).astype(np.uint64)
    if (shifts > MOST_BITS).any():
        raise PacketError(f"{name}: a block of {int(shifts.max())} bits, accepted: {MOST_BITS}")
    each = shifts.repeat(BLOCK)[:count]
    quotients = source.unary(count)
    folded = quotients.astype(np.uint64) << each
    plain = quotients < MOST
    for bit in range(int(shifts.max(initial=0)) - 1, -1, -1):
        has = plain & (each > bit)
        folded[has] |= source.bits(int(has.sum())).astype(np.uint64) << np.uint64(bit)
    escaped = source.take(8 * int((~plain).sum()))
    folded[~plain] = np.frombuffer(escaped.tobytes(), ">u8")
    if source.left:
        raise PacketError(f"{name}: {source.left} bytes too many")
    numbers = _unfold(folded)
    if encode(numbers) != data:
        raise PacketError(f"{name}: not the code that these numbers have")
    return numbers


class _Source:
    """Reads planes from a byte string, each from a byte on."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._at, self._name = np.frombuffer(data, np.uint8), 0, name

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> NDArray[np.uint8]:
        if count > self.left:
            raise self._cut_short(f"{count} bytes", self.left)
        self._at += count
        return self._data[self._at - count : self._at]

    def bits(self, count: int) -> NDArray[np.uint8]:
        return np.unpackbits(self.take(-(-count // 8)), count=count)

    def unary(self, count: int) -> NDArray[np.int64]:
        most = -(-count * (MOST + 1) // 8)
        found = np.unpackbits(self._data[self._at : self._at + most])
        ends = np.flatnonzero(found == 0)[:count]
        if len(ends) < count:
            raise self._cut_short(f"{count} quotients", len(ends))
        quotients = np.diff(ends, prepend=-1) - 1
        if (quotients > MOST).any():
            most = int(quotients.max())
            raise PacketError(f"{self._name}: a quotient of {most}, accepted: {MOST}")
        self.take(-(-(int(ends[-1]) + 1) // 8) if count else 0)
        return quotients

    def _cut_short(self, expected: str, there: int) -> PacketError:
        return PacketError(f"{self._name}: cut short, {expected} expected and {there} there")


def _fold(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    return ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)


def _unfold(folded: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (folded >> np.uint64(1)).view(np.int64) ^ -(folded & np.uint64(1)).view(np.int64)


def _best_shifts(folded: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the k of each block with which it takes the fewest bits, the least of equal ones."""
    padded = np.zeros(-(-len(folded) // BLOCK) * BLOCK, np.uint64)
    padded[: len(folded)] = folded
    blocks, there = padded.reshape(-1, BLOCK), np.ones(len(padded), bool)
    there[len(folded) :] = False
    sizes = there.reshape(-1, BLOCK).sum(1)
    best, fewest = np.zeros(len(blocks), np.uint64), np.full(len(blocks), np.iinfo(np.int64).max)
    for shift in range(min(int(folded.max(initial=0)).bit_length(), MOST_BITS) + 1):
        quotients = blocks >> np.uint64(shift)
        escaped = quotients >= MOST
        remainders = shift * (sizes - escaped.sum(1)) + 64 * escaped.sum(1)
        bits = np.minimum(quotients, MOST).astype(np.int64).sum(1) + remainders
        better = bits < fewest
        best[better], fewest[better] = shift, bits[better]
    return best
