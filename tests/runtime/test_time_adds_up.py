"""What the time went into adds up to the time, whatever the strategy, the world and the faults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mfd_flower.config import RunConfig
from mfd_flower.runtime.runner import run_locally

MOVING = {
    **{"width_m": 150.0, "height_m": 150.0, "d2d_range_m": 120.0, "mobility": "waypoint"},
    **{"low_m_per_s": 5.0, "high_m_per_s": 9.0},
}
SENSING = {"sample_s": 0.01, "sample_j": 0.5}
WORLDS: dict[str, dict[str, Any]] = {
    "constant": SENSING,
    "wireless": {"world": "wireless", "options": json.dumps(MOVING), **SENSING},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg-deadline": {"deadline_s": 100.0},
    "fedbuff": {},
    "gossip": {},
    "ridge": {},
    "mfd-walk": {"walkers": 2, "policy": "fastest"},
    "exact-walk": {},
    "hfsl": {"clusters": 2, "cluster_size": 2, "form": "planned"},
}


def run_of(
    strategy: str, network: dict[str, Any], faults: dict[str, Any] | None = None, **options: Any
) -> RunConfig:
    return RunConfig.from_tables(
        {
            "data": {
                **{"name": "digits", "nodes": 5, "validation": 0.0},
                **{"train_samples": 100, "test_samples": 50},
            },
            "model": {"tune": "head" if strategy != "hfsl" else "prompts", "prompts": 2},
            "train": {"accelerator": "cpu"},
            "network": network,
            "faults": faults or {},
            "strategy": {
                **{"name": strategy, "rounds": 1 if strategy in ("ridge", "exact-walk") else 2},
                "options": json.dumps(options),
            },
        }
    )


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_parts_of_time_and_energy_are_the_whole(strategy: str, world: str) -> None:
    found = run_locally(run_of(strategy, WORLDS[world], **STRATEGIES[strategy]))
    last, by = found["points"][-1], found["seconds_by"]
    assert sum(by.values()) == pytest.approx(last["virtual_seconds"])
    assert sum(found["joules_by"].values()) == pytest.approx(last["joules"])
    assert sum(found["node_joules"].values()) == pytest.approx(last["joules"])
    assert by["compute"] > 0
    # Each sample is acquired once, by whoever has worked on it.
    worked = 20 * len({*found["visits"]})
    if strategy != "hfsl":
        assert found["joules_by"]["sensing"] == pytest.approx(0.5 * worked)
    assert (found["spectrum_hz_s"] > 0) is (world == "wireless")
    assert found["model_transfers"]["all"] > 0
    if strategy in ("mfd-walk", "exact-walk"):
        assert by["up"] == by["down"] == 0 < by["d2d"]


@pytest.mark.parametrize("strategy", ["fedavg", "mfd-walk"])
def test_who_waits_for_what_is_lost_loses_the_time(strategy: str) -> None:
    options = {"fedavg": {}, "mfd-walk": {"policy": "round-robin"}}[strategy]
    faults = {"loss": 0.3, "silent": True}
    found, late = (
        run_locally(run_of(strategy, {"timeout_s": seconds}, faults, **options))
        for seconds in (0.0, 700.0)
    )
    assert found["failures"]
    assert found["visits"] == late["visits"]
    waited_s = late["points"][-1]["virtual_seconds"] - found["points"][-1]["virtual_seconds"]
    # Beside a wait of a round others went on with their work.
    assert waited_s == pytest.approx(700.0 * round(waited_s / 700.0), abs=2.0)
    assert late["seconds_by"]["waiting"] >= waited_s >= 690.0


def test_clusters_are_formed_anew_where_links_come_and_go() -> None:
    """Nodes that pass each other at 30 m/s: clusters of the first round do not last."""
    fast = {**MOVING, "d2d_range_m": 60.0, "low_m_per_s": 30.0, "high_m_per_s": 30.0}
    slowed = {f"n{node}": 1000.0 for node in range(5)}
    network = {"world": "wireless", "options": json.dumps({**fast, "slowed": slowed})}
    run = run_of("hfsl", network, clusters=1, cluster_size=2, form="planned")
    found = run_locally(run)
    assert len({*found["visits"]}) > 2
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"]
    assert found == found | {"seconds_by": run_locally(run)["seconds_by"]}


def test_clusters_are_as_many_as_links_give_from_the_start() -> None:
    """Out of everybody's reach a node is a cluster by itself."""
    alone = {**MOVING, "width_m": 2000.0, "height_m": 2000.0, "d2d_range_m": 5.0}
    network = {"world": "wireless", "options": json.dumps(alone)}
    found = run_locally(run_of("hfsl", network, clusters=2, cluster_size=2, form="planned"))
    assert found["visits"]
    assert found["points"][-1]["bytes"]["d2d"] == 0
