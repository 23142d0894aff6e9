"""Whole numbers under a mask: all of one width, and each sum modulo a power of two.

As in secure aggregation (Bonawitz et al. 2017, section 4): to a number that is uniform modulo 2^w,
adding anything makes it no less uniform. Whoever drew the mask takes it off at the end. A mask
cannot be coded in fewer bits than its width.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from mfd_flower.packets.frame import PacketError

MOST_BITS = 62


def drawn(secret: bytes, count: int, width_bits: int) -> NDArray[np.uint64]:
    """Return numbers ``(count,)`` below 2^w that nobody without the secret can tell from random."""
    raw = np.frombuffer(hashlib.shake_256(secret).digest(8 * count), "<u8")
    return raw & np.uint64((1 << width_bits) - 1)


def masked(
    numbers: NDArray[np.int64], mask: NDArray[np.uint64], width_bits: int
) -> NDArray[np.uint64]:
    """Return ``mask + numbers`` modulo 2^w."""
    return (mask + numbers.view(np.uint64)) & np.uint64((1 << width_bits) - 1)


def unmasked(
    numbers: NDArray[np.uint64], mask: NDArray[np.uint64], width_bits: int
) -> NDArray[np.int64]:
    """Inverse of `masked` for sums of which each lies between -2^(w-1) and 2^(w-1)."""
    left = (numbers - mask) & np.uint64((1 << width_bits) - 1)
    signed = left.view(np.int64)
    return np.where(signed >> (width_bits - 1), signed - (1 << width_bits), signed)


def encode(numbers: NDArray[np.uint64], width_bits: int) -> bytes:
    """Return numbers below 2^w one after another, `width_bits` each."""
    bits = np.unpackbits(numbers.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    return np.packbits(bits[:, 64 - width_bits :]).tobytes()


def decode(data: bytes, count: int, width_bits: int) -> NDArray[np.uint64]:
    """Inverse of `encode`; `PacketError` if these are not so many numbers."""
    if len(data) != (size := -(-count * width_bits // 8)):
        said = f"{count} numbers of {width_bits} bits take {size}"
        raise PacketError(f"masked: {len(data)} bytes, {said}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[count * width_bits :].any():
        raise PacketError("masked: bits behind the last number")
    wide = np.zeros((count, 64), np.uint8)
    wide[:, 64 - width_bits :] = bits[: count * width_bits].reshape(count, width_bits)
    return np.packbits(wide, axis=1).view(">u8").ravel().astype(np.uint64)
