"""States of nodes: as long as asked for, at other times for each, and changes are announced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network import WirelessOptions, WirelessWorld
from mfd_flower.network.routines import Routines
from mfd_flower.network.world import EDGE, Transfer

NODES = 40


def routines(day_s: float = 100.0, asleep: float = 0.25, busy: float = 0.5) -> Routines:
    return Routines(day_s, asleep, busy, 4.0, {3: 30.0}, {5: 60.0, 3: 90.0}, NODES, 1)


def test_states_have_their_shares_of_a_day() -> None:
    days, times = routines(), np.arange(0.0, 100.0, 0.25) + 1000.0
    there = np.array([[days.there(node, at_s) for at_s in times] for node in range(6, NODES)])
    slow = np.array([[days.slower(node, at_s) for at_s in times] for node in range(6, NODES)])
    assert there.mean(1) == pytest.approx(np.full(NODES - 6, 0.75), abs=0.01)
    assert (slow == 4.0).mean(1) == pytest.approx(np.full(NODES - 6, 0.5), abs=0.01)
    assert there[slow == 4.0].all()
    assert there.mean(0).min() > 0.4
    assert there.mean(0).max() < 1.0  # Not all sleep, or wake, at once.


def test_who_comes_later_or_goes_is_there_in_between() -> None:
    always = routines(day_s=0.0)
    for node, at_s, expected in (
        *((3, 29.9, False), (3, 30.0, True), (3, 89.9, True), (3, 90.0, False)),
        *((5, 0.0, True), (5, 60.0, False), (7, 1e9, True)),
    ):
        assert always.there(node, at_s) is expected
    assert always.slower(7, 5.0) == 1.0
    assert [always.next_change_s(at_s) for at_s in (0.0, 30.0, 60.0, 90.0)] == [30, 60, 90, np.inf]


@given(st.floats(0, 500), st.floats(0, 0.5), st.floats(0, 0.5))
def test_nothing_changes_before_the_next_change(at_s: float, asleep: float, busy: float) -> None:
    days = routines(10.0, asleep, busy)
    ends_s = days.next_change_s(at_s)
    assert at_s < ends_s <= at_s + 10.0
    for share in (0.01, 0.5, 0.99):
        then_s = at_s + share * (ends_s - at_s)
        if min(then_s - at_s, ends_s - then_s) < 1e-6:
            continue
        for node in range(NODES):
            assert days.there(node, then_s) == days.there(node, at_s + 1e-9)
            assert days.slower(node, then_s) == days.slower(node, at_s + 1e-9)


def test_a_world_has_no_links_with_those_who_are_not_there() -> None:
    options: dict[str, Any] = {"width_m": 150.0, "height_m": 150.0, "d2d_range_m": 300.0}
    here = WirelessWorld(
        NetworkConfig(), 10, 0, WirelessOptions(**options, joins={"n3": 50.0}, leaves={"n4": 50.0})
    )
    for at_s, gone in ((0.0, "n3"), (49.9, "n3"), (50.0, "n4")):
        assert not here.available(gone, at_s)
        assert gone not in here.neighbours("n0", at_s)
        for link in (("n0", gone, "d2d"), (EDGE, gone, "down"), (gone, EDGE, "up")):
            assert here.rates_bps([Transfer(*link)], at_s)[0] == 0  # type: ignore[arg-type]
        assert here.links_bps("n0", [gone], at_s)[0] == 0
    assert here.next_change_s(3.0) == 50.0
    day = WirelessOptions(**options, day_s=100.0, asleep=0.0, busy=1.0, busy_slower=3.0)
    busy = WirelessWorld(NetworkConfig(), 10, 0, day)
    assert (busy.slower("n1", 5.0), busy.slower(EDGE, 5.0)) == (3.0, 1.0)
    seen, usual = busy.seen_by("n1", 5.0).device, here.seen_by("n1", 5.0).device
    assert seen.flops_per_s == pytest.approx(usual.flops_per_s / 3)
    assert seen.memory_bytes == usual.memory_bytes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"day_s": 10.0, "asleep": 0.6, "busy": 0.5}, "network.options.busy = 0.5: at most 0.4 of"),
        ({"joins": {"n10": 1.0}}, "network.options = 'n10': accepted: n0 to n9"),
        ({"leaves": {"x": 1.0}}, "network.options = 'x': accepted: n0 to n9"),
        ({"slowed": {"n99": 2.0}}, "network.options = 'n99': accepted: n0 to n9"),
        ({"leaves": {"n1": -1.0}}, "leaves"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WirelessWorld(NetworkConfig(), 10, 0, WirelessOptions(**options))
