"""A holder that asks a few neighbours before it chooses, at the same cost among any number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mfd_flower.config import RunConfig
from mfd_flower.walk.custody import packet_in
from tests.harness import trial, whole_and_stopped
from tests.scheduled_faults import Fault

NODES = 6


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(nodes: int = NODES, rounds: int = 2, **policy: Any) -> RunConfig:
        told = {"name": "label-balance", "advert_hops": 0, "memory": 0, **policy}
        data = {"nodes": nodes, "train_samples": 20 * nodes, "partition": "dirichlet"}
        options = {"policy": told}
        return make_run("mfd-walk", rounds, data=data, model={"tune": "head"}, options=options)

    return build


@pytest.mark.parametrize("name", ["label-balance", "kl-near", "interest"])
def test_who_asks_everybody_chooses_as_if_all_had_announced_themselves(
    settings: Callable[..., RunConfig], name: str
) -> None:
    asked = trial(settings(name=name, probes=NODES, memory=2)).grid
    told = trial(settings(name=name, advert_hops=1, memory=2)).grid
    assert asked.visits == told.visits
    assert len(set(asked.visits)) > 2


def test_each_holder_asks_at_most_so_many_and_chooses_one_of_them(
    settings: Callable[..., RunConfig],
) -> None:
    grid = trial(settings(probes=2)).grid
    asked: dict[str, list[str]] = {}
    for request, _ in grid.of("query.probe"):
        holder = request.metadata.group_id
        asked.setdefault(holder, []).append(grid.address(request.metadata.dst_node_id))
    hops = [packet_in(request.content) for request, _ in grid.of("train.hop")][1:]
    # Nothing that a node tells here changes: nobody is asked twice.
    assert all(len(set(names)) == len(names) for names in asked.values())
    assert len(hops) < len(grid.of("query.probe")) <= 2 * len(hops)
    for hop in hops:
        assert hop.destination in asked[hop.source]
    assert "query.advert" not in grid.kinds


def test_the_policy_and_not_the_order_decides(settings: Callable[..., RunConfig]) -> None:
    routes = {
        name: trial(settings(name=name, probes=3)).grid.visits
        for name in ("label-balance", "kl-near", "interest")
    }
    assert len({tuple(route) for route in routes.values()}) > 1


def test_questions_and_adverts_are_billed_to_whom_they_come_from(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings(probes=2)
    grid = trial(run).grid
    adverts = grid.of("query.table")
    assert len(adverts) == len(grid.of("query.probe"))
    for request, _ in adverts:
        (record,) = request.content.config_records.values()
        assert list(record) == [request.metadata.group_id]
    control = sum(size for kind, size in grid.wire_by_type.items() if kind.startswith("query"))
    assert grid.totals()["d2d"] == control + grid.wire_by_type["train.hop"]
    assert "query.choose" not in grid.wire_by_type


def test_control_is_the_same_a_hop_however_many_there_are(
    settings: Callable[..., RunConfig],
) -> None:
    def a_hop(nodes: int, **policy: Any) -> float:
        bill = trial(settings(nodes, 1, **policy)).grid.wire_by_type
        control = sum(size for kind, size in bill.items() if kind.startswith("query"))
        return control / nodes

    assert a_hop(12, probes=2) < 1.15 * a_hop(6, probes=2)
    assert a_hop(12, advert_hops=1) > 1.3 * a_hop(6, advert_hops=1)


def test_who_does_not_answer_is_not_chosen(settings: Callable[..., RunConfig]) -> None:
    gone = Fault("asleep", "n3", span=None)
    found = trial(settings(probes=2), [gone], timeout=0.3)
    assert "n3" not in found.grid.visits
    assert len(found.grid.visits) == 2 * NODES


def test_a_killed_walk_goes_on_to_the_same_end(
    settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    whole, again, _ = whole_and_stopped(settings(probes=2), tmp_path, 5)
    assert again == whole
