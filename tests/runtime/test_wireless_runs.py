"""Whole runs in a wireless world: any strategy, the same again, out of reach and out of power."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, NetworkConfig, RunConfig
from mfd_flower.network.devices import PROFILES, handset_w
from mfd_flower.network.world import EDGE, Transfer
from mfd_flower.network.worlds import new_world
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
from tests.harness import whole_and_stopped

NEAR = {"width_m": 150.0, "height_m": 150.0, "d2d_range_m": 300.0}
MOVING = {**NEAR, "mobility": "waypoint", "low_m_per_s": 5.0, "high_m_per_s": 9.0}


def settings(strategy: str, world: dict[str, Any], rounds: int = 2, **options: Any) -> RunConfig:
    return RunConfig.from_tables(
        {
            "data": {"name": "digits", "nodes": 5, "train_samples": 100, "test_samples": 50},
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": {"world": "wireless", "options": json.dumps(world)},
            "strategy": {"name": strategy, "rounds": rounds, "options": json.dumps(options)},
        }
    )


def numbers(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in point.items() if k != "wall_seconds"} for point in run["points"]]


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("fedavg", {}),
        ("mfd-walk", {"policy": "fastest"}),
        ("mfd-walk", {"walkers": 2}),
        ("gossip", {}),
    ],
)
def test_any_strategy_runs_there_and_the_same_again(strategy: str, options: dict[str, Any]) -> None:
    run = settings(strategy, MOVING, **options)
    first, again = run_locally(run), run_locally(run)
    assert numbers(first) == numbers(again)
    assert not first["failures"]
    last = first["points"][-1]
    assert last["virtual_seconds"] > 0
    assert last["joules"] > 0
    crowded = run_locally(settings(strategy, {**NEAR, "load": 0.9}, **options))["points"][-1]
    if strategy == "fedavg":
        assert crowded["accuracy"] == last["accuracy"]
        assert crowded["virtual_seconds"] > 1.1 * last["virtual_seconds"]


def test_a_stopped_run_goes_on_with_what_was_spent(tmp_path: Path) -> None:
    whole, again, said = whole_and_stopped(settings("mfd-walk", MOVING), tmp_path, 4)
    assert again == whole
    assert said


def test_a_round_takes_as_long_as_its_slowest_device() -> None:
    """What another factor of ten adds is the slow node's computing, in each of two rounds."""
    ends = []
    for slower in (1.0, 1e5, 1e6):
        run = settings("fedavg", {**NEAR, "slowed": {"n3": slower}, "devices": ["phone-low"]})
        world = new_world(run.network, run.data.nodes, run.seed)
        found = run_locally(run)
        ends.append(found["points"][-1]["virtual_seconds"])
        work_s = found["node_flops"]["n3"] / world.device("n0").flops_per_s
    assert ends[2] - ends[1] == pytest.approx(9e5 * work_s, rel=1e-6)
    assert ends[0] < 1 < ends[1]


def test_energy_of_a_round_is_computing_and_sending() -> None:
    """By hand: joules a FLOP by device; 1.602 W up; 2.6 x 25.1 W of a site for as long as alone."""
    assert handset_w(23) == pytest.approx(1.602, abs=0.001)
    world = new_world(settings("fedavg", NEAR).network, 5, 0)
    up, down = Transfer("n2", EDGE, "up"), Transfer(EDGE, "n2", "down")
    assert world.sending_j(up, 1000, 0.0, 2.5) == pytest.approx(1.602 * 2.5, rel=1e-3)
    alone_s = 8e6 / float(world.rates_bps([down], 0.0)[0])
    assert world.sending_j(down, 1_000_000, 0.0, 5 * alone_s) == pytest.approx(
        2.6 * 25.119 * alone_s, rel=1e-3
    )


def test_who_is_out_of_reach_is_answered_for_and_the_others_go_on() -> None:
    """A base station in the middle of 12 km of country: the far corners do not hear it."""
    size_m = 12_000.0
    far = {"scenario": "rma", "width_m": size_m, "height_m": size_m, "site_distance_m": size_m}
    run = settings("fedavg", {**far, "carrier_hz": 20e9}, rounds=1)
    world = new_world(run.network, 5, 0)
    heard = [
        bool(world.rates_bps([Transfer(EDGE, f"n{node}", "down")], 0.0)[0]) for node in range(5)
    ]
    assert 0 < sum(heard) < 5
    found = run_locally(run)
    lost = [each["node"] for each in found["failures"] if "out of reach" in each["reason"]]
    assert lost == [f"n{node}" for node in range(5) if not heard[node]]
    assert sorted(set(found["visits"])) == [f"n{node}" for node in range(5) if heard[node]]


def test_a_node_without_power_is_not_asked() -> None:
    run = settings("mfd-walk", NEAR)
    world = new_world(run.network, 5, 0)
    world.spend("n1", 1e9, 0.0)
    assert not world.available("n1", 0.0)
    assert world.rates_bps([Transfer(EDGE, "n1", "down")], 0.0)[0] == 0
    assert world.rates_bps([Transfer("n1", "n0", "d2d")], 0.0)[0] == 0


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("fedavg", {}),
        ("mfd-walk", {"policy": "random"}),
        ("exact-walk", {"policy": "random"}),
    ],
)
def test_a_model_does_not_run_where_it_does_not_fit(
    strategy: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Low phones with 1 MB: fm-tiny's weights alone are 2.7 MB. The others go on without them."""
    small = replace(PROFILES["phone-low"], memory_bytes=1e6)
    monkeypatch.setitem(PROFILES, "phone-low", small)
    run = settings(strategy, {**NEAR, "devices": ["phone-high", "phone-low"]}, **options)
    world = new_world(run.network, 5, 0)
    low = {f"n{node}" for node in range(5) if world.device(f"n{node}").memory_bytes == 1e6}
    assert 0 < len(low) < 5
    found = run_locally(run)
    assert not low & set(found["visits"])
    assert {each["node"] for each in found["failures"]} <= low
    assert any("MB, this device has 1" in each["reason"] for each in found["failures"])
    assert found["points"][-1]["accuracy"] > 0.2
    assert not {name for name in low if found["node_flops"].get(name)}


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("fedavg", {}), ("mfd-walk", {"policy": "random"}), ("exact-walk", {"policy": "random"})],
)
def test_who_has_left_is_not_visited_and_the_others_go_on(
    strategy: str, options: dict[str, Any]
) -> None:
    run = settings(strategy, {**NEAR, "leaves": {"n2": 0.0, "n4": 0.02}}, 3, **options)
    found = run_locally(run)
    assert "n2" not in found["visits"]
    assert set(found["visits"]) >= {"n0", "n1", "n3"}
    assert found["points"][-1]["accuracy"] > 0.2


@pytest.mark.parametrize(("strategy", "options"), [("fedavg", {}), ("mfd-walk", {"walkers": 2})])
def test_runs_over_days_are_the_same_again(strategy: str, options: dict[str, Any]) -> None:
    run = settings(strategy, {**NEAR, "day_s": 0.5, "patience_s": 0.1}, 3, **options)
    first, again = run_locally(run), run_locally(run)
    assert numbers(first) == numbers(again)
    assert len(set(first["visits"])) >= 3


def test_clusters_in_the_order_of_addresses_are_refused_where_nodes_move() -> None:
    found = r"options\.form = 'order': planned where links come and go"
    with pytest.raises(ConfigError, match=found):
        build_strategy(replace(settings("hfsl", MOVING), model=ModelConfig()))


def test_a_slow_network_is_waited_for() -> None:
    """An hour of virtual time is not an hour: 3,600 s is how long Flower waits by the wall."""
    slow = replace(settings("fedavg", {}, rounds=1), network=NetworkConfig(up_bps=1.0))
    found = run_locally(slow)
    assert found["points"][-1]["virtual_seconds"] > 36_000
    assert not found["failures"]
