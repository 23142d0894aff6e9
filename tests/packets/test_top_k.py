"""The largest entries are those of a sort, and their places come back from bytes or are refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mfd_flower.packets import PacketError
from mfd_flower.packets.top_k import count_of, largest, positions_from_bytes, positions_to_bytes


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.data())
def test_the_largest_are_those_of_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    ranked = sorted(range(len(values)), key=lambda place: -abs(values[place]))
    found = largest(torch.tensor(values, dtype=torch.float32), count)
    assert found.tolist() == sorted(ranked[:count])


@example(70, 100)  # Of floats the product is a little more than 7.
@given(st.integers(1, 999), st.integers(1, 10**6))
def test_a_share_is_rounded_up_as_if_it_were_exact(thousandths: int, size: int) -> None:
    exact = Fraction(thousandths, 1000) * size
    assert count_of(thousandths / 1000, size) == -(-exact.numerator // exact.denominator)


def test_of_a_share_that_is_next_to_nothing_one_entry_is_left() -> None:
    assert count_of(1e-300, 5) == 1
    assert count_of(1.0, 5) == 5


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_positions_come_back(size: int, share: float, seed: int) -> None:
    chosen = np.random.default_rng(seed).random(size) < share
    chosen[seed % size] = True
    positions = np.flatnonzero(chosen)
    data = positions_to_bytes(positions, size)
    assert len(data) <= -(-size // 8)
    assert positions_from_bytes(data, len(positions), size).tolist() == positions.tolist()


def test_positions_take_little_more_than_their_entropy_or_a_bit_each() -> None:
    size, rng = 100_000, np.random.default_rng(0)
    for share in (0.001, 0.01, 0.1, 0.3, 0.5):
        positions = np.sort(rng.choice(size, int(share * size), replace=False))
        bits = 8 * len(positions_to_bytes(positions, size)) / size
        entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
        assert entropy <= bits <= min(1.05 * entropy + 0.003, 1.0)


def test_places_worked_out_by_hand() -> None:
    """Gaps 0, 2 of 40: one block with k = 0, in unary 0 110; of 5 entries a bitmap is as short."""
    assert positions_to_bytes(np.array([0, 3]), 40) == bytes([0, 0b01100000])
    assert positions_to_bytes(np.array([0, 3]), 5) == bytes([0b10010000])


@given(st.binary(max_size=40), st.integers(1, 300), st.data())
def test_bytes_are_refused_or_stand_for_places(data: bytes, size: int, more: st.DataObject) -> None:
    count = more.draw(st.integers(1, size))
    try:
        positions = positions_from_bytes(data, count, size)
    except PacketError:
        return
    assert len(positions) == count
    assert (np.diff(positions, prepend=-1) > 0).all()
    assert positions[-1] < size


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (positions_to_bytes(np.array([4, 70]), 80), "gaps: a position beyond the 50 entries"),
        (bytes([0b11000000, *[0] * 6]), "bitmap: 2 entries, must be 3 of 50"),
        (bytes([0b11000000, *[0] * 5, 1]), "bitmap: 3 entries, must be 3 of 50"),
        (bytes(8), "bitmap: 8 bytes, must be 7"),
        (b"\x3f", "gaps: a block of 63 bits"),
        (b"", "gaps: cut short"),
    ],
)
def test_places_that_are_none_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(PacketError, match=said):
        positions_from_bytes(data, 2 if "beyond" in said else 3, 50)
