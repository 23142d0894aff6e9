"""A walk among the members of a collaboration set, who join over the network, and leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.network.world import World
from mfd_flower.network.worlds import new_world
from mfd_flower.strategy import build_strategy
from mfd_flower.walk.custody import packet_in
from tests.harness import trial, whole_and_stopped

NODES = 12
TOWN = {"width_m": 400.0, "height_m": 400.0, "d2d_range_m": 400.0, "areas": "cell"}
DRIVING = {**TOWN, "mobility": "waypoint", "low_m_per_s": 8.0, "high_m_per_s": 14.0}


def settings(world: dict[str, Any], rounds: int = 2, walkers: int = 1, **policy: Any) -> RunConfig:
    options = {"policy": {"name": "label-balance", "area": True, **policy}, "walkers": walkers}
    network = {"world": "wireless", "options": json.dumps(world)} if world else {}
    return RunConfig.from_tables(
        {
            "data": {"name": "digits", "nodes": NODES, "train_samples": 120, "test_samples": 20},
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": network,
            "strategy": {"name": "mfd-walk", "rounds": rounds, "options": json.dumps(options)},
        }
    )


def members(run: RunConfig, at_s: float = 0.0) -> tuple[World, set[str]]:
    world = new_world(run.network, NODES, run.seed)
    here = world.area("n0", 0.0)
    return world, {f"n{n}" for n in range(NODES) if world.area(f"n{n}", at_s) == here}


@pytest.mark.parametrize("policy", [{}, {"advert_hops": 0, "probes": 2, "tour": True}])
@pytest.mark.parametrize("areas", ["cell", "region"])
def test_adverts_and_packets_stay_among_those_of_the_area(
    areas: str, policy: dict[str, Any]
) -> None:
    run = settings({**TOWN, "areas": areas, "region_m": 250.0}, **policy)
    world, those = members(run)
    assert 2 < len(those) < NODES
    found = trial(run)
    assert set(found.grid.visits) == those
    assert len(found.grid.visits) == 2 * NODES
    for kind in ("query.table", "query.probe", "train.hop"):
        for request, _ in found.grid.of(kind):
            assert found.grid.address(request.metadata.dst_node_id) in those
    invited = [found.grid.address(r.metadata.dst_node_id) for r, _ in found.grid.of("query.invite")]
    assert set(invited) == those
    packets = [packet_in(request.content) for request, _ in found.grid.of("train.hop")]
    assert {packet.area for packet in packets} == {world.area("n0", 0.0)}


def test_who_joins_is_asked_over_the_base_station_and_billed_so() -> None:
    run = settings(TOWN, 1)
    grid = trial(run).grid
    totals, invited = grid.totals(), grid.wire_by_type["query.invite"]
    assert totals["down"] > 0
    assert totals["up"] > 0
    assert totals["down"] + totals["up"] == invited


def test_who_drives_off_takes_no_packet_and_is_asked_again_at_the_next_announcement() -> None:
    slowed = dict.fromkeys([f"n{node}" for node in range(NODES)], 3e5)  # Seconds a visit.
    run = settings({**DRIVING, "patience_s": 0.1, "slowed": slowed}, 6, advert_every=1)
    _, first = members(run)
    found = trial(run)
    assert len(found.grid.of("query.invite")) > len(first)
    refused = [reason for reason in found.grid.failures if reason.startswith("area = ")]
    assert refused
    assert all("this node is in cell-" in reason for reason in refused)
    assert len(set(found.grid.visits)) > len(first)  # Others have come into it meanwhile.
    assert len(found.grid.visits) == 6 * NODES


def test_where_there_are_no_areas_all_are_members() -> None:
    found = trial(settings({}, 1))
    assert set(found.grid.visits) == {f"n{node}" for node in range(NODES)}


def test_a_killed_walk_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, again, _ = whole_and_stopped(settings(DRIVING, advert_every=1), tmp_path, 5)
    assert again == whole


def test_several_walkers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.area = True: accepted with one walker alone"):
        build_strategy(settings(TOWN, walkers=2))
