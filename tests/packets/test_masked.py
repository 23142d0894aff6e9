"""Masked numbers: sums come back, in the width that was said, and nothing shows before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mfd_flower.packets.frame import PacketError
from mfd_flower.packets.masked import decode, drawn, encode, masked, unmasked


@given(st.integers(8, 62), st.integers(0, 40), st.integers(0, 2**31))
def test_what_was_added_in_turn_comes_back(width: int, count: int, seed: int) -> None:
    """Every sum between -2^(w-1) and 2^(w-1)."""
    rng = np.random.default_rng(seed)
    most = (1 << (width - 1)) // 4
    parts = [rng.integers(-most, most, count) for _ in range(3)]
    mask = drawn(b"secret", count, width)
    travelling = mask
    for part in parts:
        travelling = decode(encode(masked(part, travelling, width), width), count, width)
    assert unmasked(travelling, mask, width).tolist() == np.sum(parts, axis=0).tolist()


@pytest.mark.parametrize("width", [8, 13, 62])
def test_a_number_takes_its_width(width: int) -> None:
    assert len(encode(drawn(b"a", 1000, width), width)) == -(-1000 * width // 8)


def test_masked_numbers_are_uniform_whatever_is_under_them() -> None:
    for numbers in (np.zeros(100_000, np.int64), np.full(100_000, -77)):
        found = masked(numbers, drawn(b"some secret", len(numbers), 8), 8)
        assert chisquare(np.bincount(found.astype(int), minlength=256)).pvalue > 1e-4


def test_another_secret_is_another_mask() -> None:
    assert (drawn(b"a", 100, 62) != drawn(b"b", 100, 62)).all()
    assert (drawn(b"a", 100, 62) == drawn(b"a", 100, 62)).all()


@pytest.mark.parametrize("data", [b"", bytes(12), bytes(14), bytes(12) + b"\x01"])
def test_other_bytes_are_refused(data: bytes) -> None:
    """Ten numbers of ten bits are 100 bits in 13 bytes, of which four bits are zeros."""
    with pytest.raises(PacketError, match="masked: "):
        decode(data, 10, 10)
    assert len(decode(bytes(13), 10, 10)) == 10
