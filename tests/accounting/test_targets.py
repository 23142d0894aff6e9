"""Bytes to a target on curves small enough to do by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mfd_flower.accounting.plan import plan
from mfd_flower.accounting.summary import summarise, visits_entropy
from mfd_flower.accounting.targets import bytes_to_target, mean_curve


def curve(accuracies: list[float], gap: int = 1, size: int = 10) -> list[dict[str, Any]]:
    """One point every `gap` updates, `size` bytes each."""
    return [
        {
            "step": i,
            "updates": i * gap,
            "accuracy": accuracy,
            "bytes": {"payload": i * size, "wire": i * (size + 1), "relay": 2 * i * size},
            "virtual_seconds": 0.0,
            "joules": 0.0,
            "flops": 0.0,
            "peak_node_bytes": 0,
        }
        for i, accuracy in enumerate(accuracies)
    ]


def test_a_walk_is_judged_over_the_next_tour() -> None:
    walk = curve([0.1, 0.9, 0.2, 0.2, 0.8, 0.9, 0.7, 0.9])
    reach = bytes_to_target(walk, 0.8, nodes=3)
    assert reach.first == 10  # touches at hop 1, by luck
    assert reach.sustained == 40  # 0.8, 0.9, 0.7 from hop 4 on


def test_fedavg_is_judged_round_by_round() -> None:
    fedavg = curve([0.1, 0.7, 0.85, 0.79, 0.9], gap=3, size=60)
    reach = bytes_to_target(fedavg, 0.8, nodes=3)
    assert (reach.sustained, reach.first) == (120, 120)


def test_a_window_that_the_run_cuts_off_proves_nothing() -> None:
    assert bytes_to_target(curve([0.1, 0.1, 0.9, 0.9]), 0.8, nodes=3).sustained is None
    assert bytes_to_target(curve([0.1, 0.9, 0.9, 0.9]), 0.8, nodes=3).sustained == 10
    assert bytes_to_target(curve([0.1, 0.2]), 0.8, nodes=1).first is None


def test_a_window_counts_updates_not_points() -> None:
    sparse = curve([0.0, 0.9, 0.3, 0.9, 0.9], gap=2)
    assert bytes_to_target(sparse, 0.8, nodes=4).sustained == 30


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
        "failed_replies": 0,
        "visits": ["n0", "n1", "n2", "n0"],
        "wire_by_type": {"train": 99, "query.ack": 1},
    }


def test_yardstick_is_the_hardest_fedavg() -> None:
    """The target comes from the most accurate FedAvg, the bytes from the thriftiest."""
    summary = summarise(
        [
            run("fedavg 1", curve([0.1, 0.7, 0.85, 0.9], gap=3, size=60)),
            run("fedavg 5", curve([0.1, 0.89, 0.89, 0.89], gap=3, size=60)),
            run("walk", curve([0.1, 0.5, 0.9, 0.9, 0.9, 0.9])),
            run("walk full", curve([0.1, 0.9, 0.9, 0.9, 0.9], size=1000), tune="full"),
        ],
        margin=0.02,
    )["iid"]
    rows = {row["strategy"]: row for row in summary["rows"]}
    assert summary["target"] == pytest.approx(0.88)
    assert summary["yardstick"] == "fedavg 5"
    assert rows["walk"]["sustained_bytes"] == 20
    assert rows["walk"]["ratio"] == pytest.approx(20 / 60)
    assert rows["fedavg 1"]["ratio"] == pytest.approx(3)
    assert rows["walk"]["same_payload"]
    assert rows["walk"]["control_share"] == pytest.approx(0.01)
    assert rows["walk"]["control_bytes"] == 1
    assert not rows["walk full"]["same_payload"]


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
