"""Walkers of sums meet whoever is away, and add up what nobody is in twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flwr.app import ConfigRecord, RecordDict

from mfd_flower.config import RunConfig
from mfd_flower.packets.members import bitmap, members_in
from tests.harness import trial
from tests.scheduled_faults import Fault
from tests.strategies.test_exact_walk import (
    NODES,
    ends_with,
    landing,
    packets,
    settings,
    sums_in,
    whole,
)
from tests.walk.walks import packet_in

__all__ = ["settings"]


@pytest.mark.parametrize("walkers", [2, 3])
@pytest.mark.parametrize("span", [1, 2, 3])
def test_walkers_meet_at_a_node_that_was_away_as_they_began(
    settings: Callable[..., RunConfig], walkers: int, span: int
) -> None:
    """Whoever comes first, and whichever of them adds the node's own sums."""
    run = settings(walkers=walkers)
    found = trial(run, [Fault("asleep", "n0", span=span)], timeout=0.5)
    assert ends_with(found, whole(run))


@pytest.mark.parametrize("walkers", [2, 3])
@pytest.mark.parametrize("gone", [("n0",), ("n0", "n1"), ("n0", "n1", "n2", "n3")])
def test_walkers_meet_at_the_next_node_if_the_one_they_meet_at_is_gone(
    settings: Callable[..., RunConfig], walkers: int, gone: tuple[str, ...]
) -> None:
    run = settings(walkers=walkers)
    found = trial(run, [Fault("asleep", address, span=None) for address in gone], timeout=0.2)
    assert ends_with(found, whole(run, tuple(int(address[1:]) for address in gone)))


def test_overlapping_sums_are_not_added_up(settings: Callable[..., RunConfig]) -> None:
    """The second walker to meet has a node in common with the first: both stay as they are."""
    run = settings(walkers=2)
    found = trial(run)
    tour = packets(found)[0].tour
    record = found.contexts["n0"].state.config_records[f"gathered/{tour}"]
    before = ConfigRecord({**record, "included": bitmap(["n4"])})
    arriving = next(
        packet_in(q.content)
        for q in found.grid.requests
        if q.metadata.message_type == "train.hop"
        and packet_in(q.content).destination == "n0"
        and "n4" in members_in(packet_in(q.content).included, NODES)
    )
    counted = found.contexts["n0"].state.config_records[f"counted/{tour}"]
    state = RecordDict({f"gathered/{tour}": before, f"counted/{tour}": counted})
    content, _ = landing(run, arriving, state)
    assert content.config_records["apart"]["text"] == (
        "included: n4 in both sums, which are not added up"
    )
    assert sums_in(packet_in(content)) == sums_in(arriving)
