"""Walkers of sums meet whoever is away, and add up what nobody is in twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.packets.members import bitmap, members_in
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
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


@pytest.mark.parametrize("walkers", [1, 2, 4])
@pytest.mark.parametrize("away", ["n3", "n7"])
def test_who_is_out_of_reach_is_missing_and_nobody_else(
    tmp_path: Path, walkers: int, away: str
) -> None:
    """Nodes in a row that reach the next one alone, and one far off: walkers look, and go back."""
    row = [f"n{node}" for node in range(8) if f"n{node}" != away]
    lines = [f"{name[1:]},0,{60 + 50 * place},50" for place, name in enumerate(row)]
    trace = tmp_path / "row.csv"
    trace.write_text("\n".join(["node,time_s,x_m,y_m", *lines, f"{away[1:]},0,2000,50"]) + "\n")
    options = {"width_m": 2100.0, "height_m": 100.0, "d2d_range_m": 60.0}
    world = {**options, "mobility": f"trace:{trace}"}
    run = RunConfig.from_tables(
        {
            "data": {
                **{"name": "digits", "nodes": 8, "validation": 0.0},
                **{"train_samples": 80, "test_samples": 40},
            },
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": {"world": "wireless", "options": json.dumps(world)},
            "strategy": {
                **{"name": "exact-walk", "rounds": 1},
                "options": json.dumps({"walkers": walkers}),
            },
        }
    )
    found = run_locally(run)
    assert found["missing"] == [away]
    assert len(found["included"]) == 7


def test_nodes_that_no_links_lead_to_are_named_where_nobody_moves() -> None:
    """What is refused is an island; one that walks about may come back."""
    world = {"width_m": 3000.0, "height_m": 3000.0, "d2d_range_m": 50.0}
    run = RunConfig.from_tables(
        {
            "data": {"name": "digits", "nodes": 4, "train_samples": 40, "test_samples": 20},
            "model": {"tune": "head"},
            "network": {"world": "wireless", "options": json.dumps(world)},
            "strategy": {"name": "exact-walk", "rounds": 1},
        }
    )
    with pytest.raises(ConfigError, match=r"network = 'n1, n2, n3': no links lead there"):
        build_strategy(run)
    moving = json.dumps({**world, "mobility": "waypoint"})
    build_strategy(replace(run, network=replace(run.network, options=moving)))
