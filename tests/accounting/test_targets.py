"""Bytes to a target on curves small enough to do by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.accounting.plan import plan
from mfd_flower.accounting.summary import (
    SHARES,
    first_reach,
    mean_curve,
    summarise,
    targets_of,
    visits_entropy,
)


def curve(accuracies: list[float], gap: int = 1, size: int = 10) -> list[dict[str, Any]]:
    """One point every `gap` updates, `size` bytes each."""
    return [
        {
            "step": i,
            "updates": i * gap,
            "accuracy": accuracy,
            "macro_accuracy": accuracy,
            "bytes": {"payload": i * size, "wire": i * (size + 1), "relay": 2 * i * size},
            "virtual_seconds": 0.0,
            "joules": 0.0,
            "flops": 0.0,
            "peak_node_bytes": 0,
            "busiest_node_bytes": None,
        }
        for i, accuracy in enumerate(accuracies)
    ]


def test_first_reach_is_where_the_curve_first_touches() -> None:
    walk = curve([0.1, 0.9, 0.2, 0.2, 0.8, 0.95])
    assert first_reach(walk, 0.8) == 11
    assert first_reach(walk, 0.8, "payload") == 10
    assert first_reach(walk, 0.95, "payload") == 50
    assert first_reach(walk, 0.96) is None
    assert first_reach([], 0.5) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.lists(st.floats(0, 1), min_size=1))
def test_a_higher_target_is_never_reached_earlier(
    accuracies: list[float], targets: list[float]
) -> None:
    points = curve(accuracies)
    reached = [first_reach(points, target) for target in sorted(targets)]
    known = [size for size in reached if size is not None]
    assert reached == known + [None] * (len(reached) - len(known))
    assert known == sorted(known)
    best = max(accuracies)
    shares = targets_of(points, best)
    assert shares[-1]["first_bytes"] == points[accuracies.index(best)]["bytes"]["wire"]
    assert [t["accuracy"] for t in shares] == pytest.approx([s * best for s in SHARES])


def test_mean_curve_averages_accuracy_and_bytes() -> None:
    mean = mean_curve([curve([0.0, 0.4]), curve([0.2, 0.8], size=20)])
    assert [p["accuracy"] for p in mean] == pytest.approx([0.1, 0.6])
    assert mean[1]["bytes"]["payload"] == 15


def run(
    strategy: str, points: list[dict[str, Any]], tune: str = "head", seed: int = 0
) -> dict[str, Any]:
    settings = {"model.tune": tune, "model.deep": True, "model.prompts": 8, "model.lora_rank": 4}
    return {
        "scenario": "iid",
        "strategy": strategy,
        "seed": seed,
        "yardstick": strategy.startswith("fedavg"),
        "nodes": 3,
        "tunables": 970,
        "settings": settings,
        "points": points,
        "failures": [],
        "wall_seconds": 0.0,
        "visits": ["n0", "n1", "n2", "n0"],
        "wire_by_type": {"train": 99, "query.ack": 1},
    }


def test_yardstick_is_the_hardest_fedavg() -> None:
    """The target comes from the most accurate FedAvg, the bytes from the thriftiest."""
    summary = summarise(
        [
            run("fedavg 1", curve([0.1, 0.7, 0.85, 0.9], gap=3, size=60)),
            run("fedavg 5", curve([0.1, 0.89, 0.89, 0.89], gap=3, size=60)),
            run("walk", curve([0.1, 0.5, 0.9, 0.9, 0.9, 0.92])),
            run("walk full", curve([0.1, 0.9, 0.9, 0.9, 0.9], size=1000), tune="full"),
        ],
        margin=0.02,
    )["iid"]
    rows = {row["strategy"]: row for row in summary["rows"]}
    assert summary["target"] == pytest.approx(0.88)
    assert summary["best"] == 0.92
    assert (summary["yardstick"], summary["yardstick_bytes"]) == ("fedavg 5", 61)
    assert (rows["walk"]["target_wire"], rows["walk"]["target_payload"]) == (22, 20)
    assert rows["walk"]["ratio"] == pytest.approx(22 / 61)
    assert rows["fedavg 1"]["ratio"] == pytest.approx(3)
    assert rows["walk"]["same_payload"]
    assert rows["walk"]["control_share"] == pytest.approx(0.01)
    assert rows["walk"]["control_bytes"] == 1
    assert not rows["walk full"]["same_payload"]


def test_rows_say_where_shares_of_the_best_accuracy_are_first_reached() -> None:
    runs = [run("fedavg", curve([0.1, 0.95], size=60)), run("walk", curve([0.1, 0.91, 0.99, 1.0]))]
    summary = summarise(runs, margin=0.01)["iid"]
    rows = {row["strategy"]: row for row in summary["rows"]}
    assert [t["share"] for t in rows["walk"]["targets"]] == list(SHARES)
    assert [t["first_bytes"] for t in rows["walk"]["targets"]] == [11, 22, 22, 22, 33]
    assert [t["first_bytes"] for t in rows["fedavg"]["targets"]] == [61, 61, None, None, None]
    for row in rows.values():
        headline = row["targets"][SHARES.index(0.99)]
        for kind in ("kept_bytes", "first_bytes", "trailing_bytes"):
            assert row[kind] == headline[kind]


def test_a_baseline_of_which_nodes_failed_is_no_yardstick() -> None:
    weak = run("fedavg weak", curve([0.1, 0.99]))
    weak["failures"] = [{"node": "n0", "step": 1, "reason": "ValueError: no"}]
    summary = summarise([weak, run("fedavg", curve([0.1, 0.8]))], margin=0.0)["iid"]
    assert (summary["yardstick"], summary["target"]) == ("fedavg", 0.8)
    summary = summarise([weak], margin=0.0)["iid"]
    assert (summary["yardstick"], summary["target"]) == (None, None)
    assert summary["rows"][0]["target_wire"] is None


def test_whitepaper_example_is_28_terabytes() -> None:
    found = plan(
        params=7e9,
        bytes_per_param=2,
        nodes=10,
        rounds=100,
        dim=4096,
        layers=32,
        tokens=1,
        prompts=1,
        lora_rank=1,
        classes=2,
        samples=1,
        cuts=1,
    )
    assert found.fedavg_bytes == 28_000_000_000_000
    assert found.walk_bytes == 14_000_000_000_000


def test_split_learning_on_vit_base_carries_605184_bytes_a_sample_and_way() -> None:
    found = plan(
        params=86e6,
        bytes_per_param=4,
        nodes=1,
        rounds=1,
        dim=768,
        layers=12,
        tokens=197,
        prompts=10,
        lora_rank=4,
        classes=5,
        samples=1,
        cuts=1,
    )
    assert found.split_bytes == 2 * 605_184
    assert found.prompts_walk_bytes == (10 * 768 * 12 + 768 * 5 + 5) * 4


def test_visits_entropy_is_one_for_even_visits_and_falls_with_favourites() -> None:
    even, favourite = ["n0", "n1", "n2", "n3"] * 3, ["n0"] * 9 + ["n1"]
    assert visits_entropy(even, 4) == pytest.approx(1)
    assert visits_entropy(["n2"] * 5, 4) == 0
    assert 0 < visits_entropy(favourite, 4) < visits_entropy(["n0", "n1"] * 5, 4)
    assert visits_entropy(["n0", "n1"] * 5, 4) == pytest.approx(0.5)
