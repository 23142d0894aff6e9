"""Rice codes: any numbers come back, one code each, and nothing else is taken for one."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.packets.frame import PacketError
from mfd_flower.packets.rice import BLOCK, MOST, decode, encode

LIMITS = np.iinfo(np.int64)
NUMBERS = st.lists(
    st.one_of(st.integers(LIMITS.min, LIMITS.max), st.integers(-300, 300)), max_size=3 * BLOCK
)


@given(NUMBERS)
def test_any_numbers_come_back(numbers: list[int]) -> None:
    given_numbers = np.array(numbers, np.int64)
    back = decode(encode(given_numbers), len(numbers))
    assert back.dtype == np.int64
    assert back.tolist() == numbers


@given(st.binary(max_size=300), st.integers(0, 3 * BLOCK))
def test_bytes_are_refused_or_are_the_one_code_of_their_numbers(data: bytes, count: int) -> None:
    try:
        numbers = decode(data, count)
    except PacketError:
        return
    assert encode(numbers) == data


@given(NUMBERS.filter(bool), st.data())
def test_a_code_that_was_changed_is_not_taken_for_the_same_numbers(
    numbers: list[int], data: st.DataObject
) -> None:
    code = encode(np.array(numbers, np.int64))
    cut = data.draw(st.integers(0, len(code) - 1))
    with pytest.raises(PacketError, match="sums: "):
        decode(code[:cut], len(numbers))
    with pytest.raises(PacketError, match="1 bytes too many"):
        decode(code + b"\0", len(numbers))
    at, bit = data.draw(st.integers(0, len(code) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(code)
    flipped[at] ^= 1 << bit
    with contextlib.suppress(PacketError):
        assert decode(bytes(flipped), len(numbers)).tolist() != numbers


def test_codes_worked_out_by_hand() -> None:
    """0, -1, 1, -2 are folded to 0 to 3: with k = 0 in 1 + 2 + 3 + 4 bits, with k = 1 in 10 too."""
    assert encode(np.array([0, -1, 1, -2])) == bytes([0, 0b01011011, 0b10000000])
    assert encode(np.array([], np.int64)) == b""


def test_a_code_takes_little_more_than_the_entropy() -> None:
    rng = np.random.default_rng(0)
    for width in (3, 300, 1e6):
        numbers = np.rint(rng.laplace(scale=width, size=100 * BLOCK)).astype(np.int64)
        bits = 8 * len(encode(numbers)) / len(numbers)
        assert np.log2(2 * np.e * width) <= bits + 0.05 <= np.log2(2 * np.e * width) + 0.3


def test_an_outlier_costs_its_escape_and_not_the_others() -> None:
    numbers = np.ones(BLOCK, np.int64)
    without = len(encode(numbers))
    numbers[BLOCK // 2] = LIMITS.max
    assert len(encode(numbers)) <= without + 8 + -(-(MOST + 1) // 8)
