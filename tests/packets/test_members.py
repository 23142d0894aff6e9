"""Bitmaps of nodes: one text a set, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.packets.frame import PacketError
from mfd_flower.packets.members import bitmap, members_in

NODES = 500


@given(st.frozensets(st.integers(0, NODES - 1)))
def test_any_set_comes_back(numbers: frozenset[int]) -> None:
    addresses = frozenset(f"n{number}" for number in numbers)
    text = bitmap(addresses)
    assert members_in(text, NODES) == addresses
    assert 2 * (max(numbers, default=-1) // 8 + 1) == len(text)


@given(st.binary(max_size=70))
def test_a_text_is_the_one_of_its_set_or_refused(data: bytes) -> None:
    try:
        addresses = members_in(data.hex(), NODES)
    except PacketError:
        return
    assert bitmap(addresses) == data.hex()


@pytest.mark.parametrize(("text", "nodes"), [("08", 3), ("0100", 9), ("00", 9), ("0001", 8)])
def test_who_is_no_member_is_named(text: str, nodes: int) -> None:
    with pytest.raises(PacketError, match=f"included = {text}: not a bitmap of {nodes} nodes"):
        members_in(text, nodes)
