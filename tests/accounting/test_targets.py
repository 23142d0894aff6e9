"""Bytes to a target on curves small enough to do by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.accounting.plan import plan
from mfd_flower.accounting.summary import SHARES, mean_curve, summarise, visits_entropy
from mfd_flower.accounting.targets import diverged, first_point, kept_point, trailing_point
from mfd_flower.network.clock import KINDS


def curve(accuracies: list[float], gap: int = 1, size: int = 10) -> list[dict[str, Any]]:
    """One point every `gap` updates, `size` bytes each."""
    return [
        {
            "step": i,
            "updates": i * gap,
            "accuracy": accuracy,
            "macro_accuracy": accuracy,
            "bytes": {
                **{"payload": i * size, "wire": i * (size + 1), "relay": 2 * i * size},
                **dict.fromkeys(("up", "down", "d2d", "backhaul"), 0),
            },
            "virtual_seconds": 0.0,
            "joules": 0.0,
            "flops": 0.0,
            "peak_node_bytes": 0,
            "busiest_node_bytes": 0,
            "wall_seconds": 0.0,
        }
        for i, accuracy in enumerate(accuracies)
    ]


def wire(point: Any) -> int | None:
    return None if point is None else point["bytes"]["wire"]


def test_three_readings_of_a_curve_worked_out_by_hand() -> None:
    """Two nodes, one update a point, eleven bytes each."""
    walk = curve([0.1, 0.9, 0.2, 0.2, 0.8, 0.95, 0.9])
    assert wire(first_point(walk, 0.8)) == 11
    assert wire(kept_point(walk, 0.8, nodes=2)) == 44
    # The mean of 0.2 and 0.8 is not there, that of 0.8 and 0.95 is.
    assert wire(trailing_point(walk, 0.8, nodes=2)) == 55
    assert wire(kept_point(walk, 0.95, nodes=2)) is None
    assert wire(trailing_point(walk, 0.95, nodes=2)) is None
    assert wire(kept_point(walk, 0.9, nodes=2)) == 55


def test_what_a_run_ends_with_is_kept() -> None:
    """Of a method that sends once there is one point, and its model stays as it is."""
    once = [*curve([0.1]), *curve([0.1, 0.9], gap=10)[1:]]
    for find in (kept_point, trailing_point):
        assert wire(find(once, 0.9, 10)) == 11
        assert find(once, 0.91, 10) is None
    late = curve([0.1, 0.1, 0.9])
    assert wire(kept_point(late, 0.9, 10)) == wire(trailing_point(late, 0.9, 10)) == 22


# Of a thousand test samples; sums of many are not exact enough for targets nearer than these.
ACCURACIES = st.integers(0, 1000).map(lambda right: right / 1000)
TARGETS = st.integers(0, 100_000).map(lambda share: share / 100_000)
CURVES = st.lists(st.tuples(ACCURACIES, st.integers(0, 4)), min_size=1, max_size=30)


def uneven(pairs: list[tuple[float, int]]) -> list[dict[str, Any]]:
    """A curve with so many updates before each point."""
    points = curve([accuracy for accuracy, _ in pairs])
    updates = itertools.accumulate(gap for _, gap in pairs)
    return [point | {"updates": u} for point, u in zip(points, updates, strict=True)]


@given(CURVES, TARGETS, st.integers(1, 12))
def test_kept_and_trailing_are_never_before_first(
    pairs: list[tuple[float, int]], target: float, nodes: int
) -> None:
    points = uneven(pairs)
    first = wire(first_point(points, target))
    for find in (kept_point, trailing_point):
        reached = wire(find(points, target, nodes))
        assert reached is None or (first is not None and reached >= first)


@given(CURVES, TARGETS, st.integers(1, 12))
def test_on_a_rising_curve_what_is_reached_is_kept(
    pairs: list[tuple[float, int]], target: float, nodes: int
) -> None:
    rising = sorted(accuracy for accuracy, _ in pairs)
    points = uneven([(a, gap) for a, (_, gap) in zip(rising, pairs, strict=True)])
    assert kept_point(points, target, nodes) is first_point(points, target)


@given(CURVES, TARGETS, st.integers(1, 12), st.integers(1, 1000))
def test_readings_know_no_unit(
    pairs: list[tuple[float, int]], target: float, nodes: int, scale: int
) -> None:
    """Curves of larger messages are reached at the same point, as are those of finer updates."""
    points = uneven(pairs)
    larger = [p | {"bytes": {k: scale * v for k, v in p["bytes"].items()}} for p in points]
    finer = [p | {"updates": scale * p["updates"]} for p in points]
    for find in (kept_point, trailing_point):
        reached = wire(find(points, target, nodes))
        assert wire(find(larger, target, nodes)) == (None if reached is None else scale * reached)
        assert wire(find(finer, target, scale * nodes)) == reached


@given(CURVES, st.lists(TARGETS, min_size=1), st.integers(1, 12))
def test_a_higher_target_is_never_reached_earlier(
    pairs: list[tuple[float, int]], targets: list[float], nodes: int
) -> None:
    points = uneven(pairs)
    for find in (lambda p, t, n: first_point(p, t), kept_point, trailing_point):
        reached = [wire(find(points, target, nodes)) for target in sorted(targets)]
        known = [size for size in reached if size is not None]
        assert reached == known + [None] * (len(reached) - len(known))
        assert known == sorted(known)


def test_a_curve_that_ends_nowhere_or_below_chance_diverged() -> None:
    good = [point | {"loss": 1.0} for point in curve([0.1, 0.11])]
    assert diverged(good, 10) == ""
    assert diverged(good, 5) == "the accuracy ends below chance, 0.2"
    assert diverged([*good, good[-1] | {"loss": float("nan")}], 10) == "the loss is not finite"


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
        "diverged": "",
        "wall_seconds": 0.0,
        "visits": ["n0", "n1", "n2", "n0"],
        "wire_by_type": {"train": 99, "query.ack": 1},
        "node_peak_bytes": {"n0": 2, "n1": 3},
        "node_joules": {"edge": 9.0, "n0": 1.0, "n1": 2.0},
        "seconds_by": {**dict.fromkeys(KINDS, 0.0), "compute": 4.0, "up": 1.0},
        "joules_by": {"compute": 2.0, "radio": 1.0, "sensing": 0.0},
        "spectrum_hz_s": 3e6,
        "model_transfers": {"all": 4, "in_time": 3, "at_rate": 1},
    }


def rows_of(runs: list[dict[str, Any]], margin: float = 0.01) -> tuple[dict[str, Any], Any]:
    scenario = summarise(runs, margin)["iid"]
    return scenario, {row["strategy"]: row for row in scenario["rows"]}


def test_targets_are_of_the_metric_that_is_asked_for() -> None:
    """What is right on average, and right in few classes, keeps no target of macro accuracy."""
    even, uneven = (run(name, curve([0.1, 0.9, 0.9])) for name in ("fedavg even", "walk uneven"))
    for each, macro in ((even, 0.8), (uneven, 0.4)):
        each["points"] = [p | {"macro_accuracy": macro * p["accuracy"]} for p in each["points"]]
    for metric, rest in (("accuracy", 0.9), ("macro_accuracy", 0.72)):
        scenario = summarise([even, uneven], 0.01, metric)["iid"]  # type: ignore[arg-type]
        assert (scenario["metric"], scenario["best"]) == (metric, pytest.approx(rest))
        kept = {row["strategy"]: row["target"]["seeds"] for row in scenario["rows"]}
        assert kept == {"fedavg even": 1, "walk uneven": int(metric == "accuracy")}
        finals = {row["final"]["mean"] for row in scenario["rows"]}
        assert finals == {0.9}


def test_the_yardstick_is_the_cheapest_baseline_that_keeps_the_target() -> None:
    scenario, rows = rows_of(
        [
            run("fedavg 1", curve([0.1, 0.7, 0.85, 0.92], gap=3, size=60)),
            run("fedavg 5", curve([0.1, 0.91, 0.91, 0.91], gap=3, size=60)),
            run("fedavg cheap", curve([0.1, 0.8, 0.8, 0.8], gap=3)),
            run("walk", curve([0.1, 0.95, 0.5, 0.91, 0.92, 0.92])),
            run("walk full", curve([0.1, 0.92, 0.92, 0.92, 0.92], size=1000), tune="full"),
        ],
        margin=0.05,
    )
    assert scenario["best"] == 0.95
    assert scenario["target"] == pytest.approx(0.95 * 0.95)
    assert (scenario["yardstick"], scenario["yardstick_bytes"]) == ("fedavg 5", 61)
    assert scenario["cheapest"] == "walk"
    assert rows["walk"]["target"]["kept_bytes"] == 33
    assert rows["walk"]["target"]["kept_payload_bytes"] == 30
    assert rows["walk"]["ratio"] == pytest.approx(dict.fromkeys(("median", "low", "high"), 33 / 61))
    assert rows["fedavg 1"]["ratio"]["median"] == pytest.approx(3)
    assert rows["fedavg cheap"]["ratio"]["median"] is None
    assert rows["walk"]["alike_ratio"] == rows["walk"]["ratio"]
    assert rows["walk full"]["alike_ratio"] is None
    assert rows["walk full"]["ratio"]["median"] == pytest.approx(1001 / 61)
    assert rows["walk"]["control_share"] == pytest.approx(0.01)
    assert rows["walk"]["control_bytes"] == 1


def test_rows_say_where_shares_of_the_best_accuracy_are_reached() -> None:
    runs = [run("fedavg", curve([0.1, 0.95], size=60)), run("walk", curve([0.1, 0.91, 0.99, 1.0]))]
    _, rows = rows_of(runs)
    assert [t["share"] for t in rows["walk"]["targets"]] == list(SHARES)
    assert [t["accuracy"] for t in rows["walk"]["targets"]] == list(SHARES)
    assert [t["first_bytes"] for t in rows["walk"]["targets"]] == [11, 22, 22, 22, 33]
    assert [t["kept_bytes"] for t in rows["fedavg"]["targets"]] == [61, 61, None, None, None]
    for row in rows.values():
        headline = row["targets"][SHARES.index(0.99)]
        for kind in ("kept_bytes", "first_bytes", "trailing_bytes"):
            assert row[kind] == headline[kind]


def test_a_seed_that_never_gets_there_is_a_loss() -> None:
    reaches, fails = curve([0.1, 0.5, 0.9]), curve([0.1, 0.5, 0.5])
    fedavg = [run("fedavg", curve([0.1, 0.9], size=60), seed=seed) for seed in range(3)]
    for failing, kept in ((0, 22), (1, 22), (2, None), (3, None)):
        walks = [run("walk", fails if s < failing else reaches, seed=s) for s in range(3)]
        _, rows = rows_of(fedavg + walks)
        target, ratio = rows["walk"]["target"], rows["walk"]["ratio"]
        assert (target["kept_bytes"], target["seeds"]) == (kept, 3 - failing)
        assert ratio["low"] == (None if failing == 3 else pytest.approx(22 / 61))
        assert ratio["high"] == (pytest.approx(22 / 61) if failing == 0 else None)


def test_a_run_that_diverged_is_named_and_reaches_nothing() -> None:
    wild = run("fedavg wild", curve([0.1, 1.0, 0.0])) | {"diverged": "it ends below chance"}
    scenario, rows = rows_of([wild, run("fedavg", curve([0.1, 0.8]))])
    assert (scenario["yardstick"], scenario["best"]) == ("fedavg", 0.8)
    assert rows["fedavg wild"]["diverged"] == {0: "it ends below chance"}
    assert rows["fedavg wild"]["target"]["kept_bytes"] is None
    assert rows["fedavg wild"]["first_bytes"] is None
    scenario, _ = rows_of([wild])
    assert (scenario["yardstick"], scenario["cheapest"]) == (None, None)


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


def test_what_a_method_took_is_told_by_kind() -> None:
    other = run("walk", curve([0.1, 0.9]), seed=1)
    other["model_transfers"] = {"all": 2, "in_time": 0, "at_rate": 0}
    other["seconds_by"] = {**other["seconds_by"], "compute": 6.0}
    _, rows = rows_of([run("walk", curve([0.1, 0.9])), other])
    row = rows["walk"]
    assert (row["seconds_compute"], row["seconds_up"], row["seconds_waiting"]) == (5.0, 1.0, 0.0)
    assert (row["in_time_share"], row["at_rate_share"]) == (0.375, 0.125)
    assert (row["sum_node_bytes"], row["most_joules"], row["joules_radio"]) == (5, 2.0, 1.0)
    one_shot = {**other, "model_transfers": {"all": 0, "in_time": 0, "at_rate": 0}}
    _, rows = rows_of([one_shot])
    assert rows["walk"]["in_time_share"] is None
    del other["seconds_by"]
    _, rows = rows_of([run("walk", curve([0.1, 0.9])), other])
    assert rows["walk"]["seconds_compute"] is rows["walk"]["spectrum_hz_s"] is None
