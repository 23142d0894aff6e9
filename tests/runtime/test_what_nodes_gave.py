"""What a record tells of each node: its bytes add up to the bill's, its samples to the data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from mfd_flower.accounting.contributions import contributions_of
from mfd_flower.adversary.attackers import poisoners
from mfd_flower.config import RunConfig
from mfd_flower.runtime.runner import run_locally

MakeRun = Callable[..., RunConfig]
HEAD = {"tune": "head"}
SKEWED = {"nodes": 5, "train_samples": 150, "partition": "dirichlet", "alpha": 0.5}


@pytest.mark.parametrize(
    ("strategy", "tables"),
    [
        ("fedavg", {}),
        ("mfd-walk", {}),
        ("mfd-walk", {"options": {"walkers": 2}, "data": {"nodes": 4}}),
        ("mfd-walk", {"options": {"traits": {"ledger": {}, "admission": {}}}}),
        ("gossip", {}),
        ("exact-walk", {"options": {"traits": {"contributions": {}}}}),
        ("hfsl", {"options": {"clusters": 1, "cluster_size": 2}}),
    ],
)
def test_bytes_of_nodes_are_those_of_links_at_both_ends(
    make_run: MakeRun, strategy: str, tables: dict[str, Any]
) -> None:
    """Of the star's links a node is at one end, of those between nodes at both.

    But for the start of a walk, which comes from the experimenter over a link between nodes.
    """
    run = make_run(strategy, 2, model=HEAD if strategy != "hfsl" else {}, **tables)
    record = run_locally(run)
    sent = record["points"][-1]["bytes"]
    ends = sent["up"] + sent["down"] + 2 * sent["d2d"]
    walkers = tables.get("options", {}).get("walkers", 1)
    starts = ends - sum(record["node_bytes"].values())
    if strategy == "mfd-walk":
        a_start = starts / walkers
        assert 4 * record["tunables"] < a_start < 4 * record["tunables"] + 2000
    elif strategy != "exact-walk":  # Its last point is before the end of its second lap.
        assert starts == 0
    assert max(record["node_bytes"].values()) >= record["points"][-1]["busiest_node_bytes"]
    assert "edge" not in record["node_bytes"]
    assert sum(record["node_samples"].values()) == run.data.train_samples
    found = contributions_of(record)
    assert found
    assert found.by_node.keys() == record["node_samples"].keys()
    if strategy != "exact-walk":
        losses = [point["loss"] for point in record["points"]]
        if walkers > 1:  # What comes of their meeting is nobody's.
            losses = losses[: 2 * run.data.nodes + 1]
        assert sum(found.by_node.values()) == pytest.approx(losses[0] - losses[-1])


def test_each_point_of_a_walk_has_one_visit_more_and_of_fedavg_a_round(make_run: MakeRun) -> None:
    for strategy, step in (("mfd-walk", 1), ("fedavg", 3)):
        points = run_locally(make_run(strategy, 3, model=HEAD))["points"]
        assert {b["visits"] - a["visits"] for a, b in pairwise(points)} == {step}


def test_who_is_refused_each_time_contributes_nothing(make_run: MakeRun) -> None:
    threat = {"kind": "sign-flip", "share": 0.3, "scale": 5.0}
    data = {"nodes": 4, "train_samples": 200}
    options = {"traits": {"ledger": {}, "admission": {}}}
    run = make_run("mfd-walk", 3, model=HEAD, data=data, options=options, threat=threat)
    record, attackers = run_locally(run), poisoners(run)
    accepted = {v["author"] for v in record["versions"] if not v["reason"]}
    assert attackers
    assert attackers.isdisjoint(accepted)
    found = contributions_of(record)
    assert found
    assert all(found.by_node[name] == 0 for name in attackers)
    assert all(found.by_node[name] != 0 for name in record["node_samples"].keys() - attackers)


def test_a_star_tells_what_a_walk_measures_and_shapley_values_besides(make_run: MakeRun) -> None:
    """The same data: leave-one-out of both is equal, to the last bit."""
    walk = run_locally(
        make_run("exact-walk", model=HEAD, data=SKEWED, options={"traits": {"contributions": {}}})
    )
    star = run_locally(make_run("ridge", model=HEAD, data=SKEWED, options={"contributions": True}))
    ours, theirs = ({e["node"]: e for e in r["contributions"]} for r in (walk, star))
    assert ours.keys() == theirs.keys() == walk["node_samples"].keys()
    for name, told in theirs.items():
        for key in ("samples", "squared_error_with", "squared_error_without"):
            assert ours[name][key] == told[key]
        assert told["samples"] == star["node_samples"][name]
    assert contributions_of(walk).measure == "leave-one-out"  # type: ignore[union-attr]
    found = contributions_of(star)
    assert found
    assert found.measure == "Shapley value"
    whole = 1.0 - star["contributions"][0]["squared_error_with"]
    assert sum(found.by_node.values()) == pytest.approx(whole)


def test_a_star_tells_nothing_that_it_was_not_asked_for(make_run: MakeRun) -> None:
    record = run_locally(make_run("ridge", model=HEAD))
    assert "contributions" not in record
