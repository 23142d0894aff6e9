"""What nodes contributed by a run's record, on curves small enough to do by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.accounting.contributions import contributions_of, gave

LOSSES = st.floats(0, 100)


def record(losses: list[Any], visits: list[list[str]], nodes: int = 3) -> dict[str, Any]:
    """A run whose points, after the first, have these visits each before them."""
    until = [sum(len(each) for each in visits[:end]) for end in range(len(visits) + 1)]
    points = [
        {"loss": loss, "visits": end, "updates": end}
        for loss, end in zip(losses, until, strict=True)
    ]
    return {"nodes": nodes, "points": points, "visits": [n for each in visits for n in each]}


def by_node(run: dict[str, Any]) -> dict[str, float]:
    found = contributions_of(run)
    assert found
    return dict(found.by_node)


def test_a_walk_gives_each_visit_the_fall_behind_it() -> None:
    walk = record([2.0, 1.5, 1.75, 1.0], [["n1"], ["n0"], ["n1"]])
    assert by_node(walk) == {"n0": -0.25, "n1": 0.5 + 0.75, "n2": 0.0}
    assert contributions_of(walk).measure == "fall of the loss"  # type: ignore[union-attr]


def test_a_round_is_split_evenly_and_a_change_without_a_visit_is_nobodys() -> None:
    rounds = record([2.0, 1.4, 1.2, 1.1], [["n0", "n1", "n2"], [], ["n2", "n0"]])
    assert by_node(rounds) == pytest.approx({"n0": 0.25, "n1": 0.2, "n2": 0.25})


@given(st.lists(st.tuples(LOSSES, st.lists(st.sampled_from(["n0", "n1", "n2"]), min_size=1))))
def test_contributions_add_up_to_the_whole_fall(steps: list[tuple[float, list[str]]]) -> None:
    run = record([7.0, *(loss for loss, _ in steps)], [visits for _, visits in steps])
    last = run["points"][-1]["loss"]
    assert sum(by_node(run).values()) == pytest.approx(7.0 - last, abs=1e-9)


def test_with_admission_a_point_shows_the_visit_before() -> None:
    """n0 makes a version, n1 accepts it and makes one that n2 refuses; n2's nobody judges."""
    judged = record([2.0, 2.0, 1.5, 1.5], [["n0"], ["n1"], ["n2"]])
    judged |= {"admission": {}, "versions": [{"walker": 0}] * 3}
    assert by_node(judged) == {"n0": 0.5, "n1": 0.0, "n2": 0.0}
    several = judged | {"versions": [{"walker": 0}, {"walker": 1}]}
    assert contributions_of(several) is None


def test_sums_are_told_exactly_whatever_the_curve_says() -> None:
    told = [
        {"node": f"n{i}", "squared_error_with": 0.5, "squared_error_without": 0.5 + i / 8}
        for i in range(3)
    ]
    run = {**record([2.0, 1.0], [["n0"]]), "contributions": told}
    found = contributions_of(run)
    assert found
    assert (found.measure, found.by_node) == ("leave-one-out", {"n0": 0.0, "n1": 0.125, "n2": 0.25})
    shares = [{**each, "shapley": 1.0} for each in told]
    found = contributions_of({**run, "contributions": shares})
    assert found
    assert (found.measure, set(found.by_node.values())) == ("Shapley value", {1.0})


def test_what_a_record_does_not_tell_is_not_made_up() -> None:
    run = record([2.0, 1.5, 1.0], [["n1"], ["n0"]])
    older = {**run, "points": [{k: v for k, v in p.items() if k != "visits"}
                               for p in run["points"]]}  # fmt: skip
    assert contributions_of(older) == contributions_of(run)
    # Visits that were no update: which point they belong to is not known.
    assert contributions_of({**older, "visits": ["n1", "n0", "n0"]}) is None
    assert contributions_of(record([2.0, None, 1.0], [["n1"], ["n0"]])) is None
    assert contributions_of(record([2.0, float("nan"), 1.0], [["n1"], ["n0"]])) is None
    assert gave(run | {"node_bytes": {"n1": 5}})[:2] == [
        {"node": "n0", "samples": None, "bytes": 0, "joules": None, "flops": None,
         "contribution": 0.5},
        {"node": "n1", "samples": None, "bytes": 5, "joules": None, "flops": None,
         "contribution": 0.5},
    ]  # fmt: skip
