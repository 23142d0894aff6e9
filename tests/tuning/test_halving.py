"""Who goes on is never worse than who does not, and who fails is never chosen."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.tuning.halving import Objective, Trial, chosen, going_on, measure, rung_size
from mfd_flower.tuning.settings import Search, Setting, searches_of
from tests.accounting.test_targets import curve, run

TABLES = {
    "strategies": [
        {"strategy": "fedavg", "tune": {"train": {"lr": [n / 100 for n in range(1, 31)]}}},
        {"strategy": "mfd-walk", "tune": {"train": {"lr": [n / 100 for n in range(1, 31)]}}},
    ]
}
FEDAVG, WALK = searches_of(TABLES, 30, 0)
RESULTS = st.tuples(st.none() | st.integers(1, 5), st.integers(0, 5), st.booleans())


def trials_of(search: Search, results: list[tuple[int | None, int, bool]]) -> list[Trial]:
    """Trials that have come through a rung: bytes, accuracy in fifths, and whether one failed."""
    found = []
    for setting, (kept, accuracy, failed) in zip(search.settings, results, strict=False):
        mean = {"mean": accuracy / 5, "std": 0.0}
        trial = Trial(search, setting, results=[{"kept_bytes": kept, "best": mean, "final": mean}])
        trial.failed = "out of order" if failed else ""
        found.append(trial)
    return found


def better(one: Trial, other: Trial, objective: Objective) -> bool:
    """Whether a trial reached more than another, written out case by case."""
    mine, theirs = one.results[-1], other.results[-1]
    size, their_size = mine["kept_bytes"], theirs["kept_bytes"]
    accuracy, their_accuracy = mine["best"]["mean"], theirs["best"]["mean"]
    cheaper = size is not None and (their_size is None or size < their_size)
    if objective == "accuracy":
        return accuracy > their_accuracy or (accuracy == their_accuracy and cheaper)
    return cheaper or (size == their_size and accuracy > their_accuracy)


@given(st.lists(RESULTS, min_size=1, max_size=30), st.sampled_from(["kept-bytes", "accuracy"]))
def test_one_goes_on_only_if_no_other_was_better(
    results: list[tuple[int | None, int, bool]], objective: Objective
) -> None:
    trials = trials_of(FEDAVG, results)
    on = going_on(trials, 1, objective)
    left = [trial for trial in trials if trial not in on and not trial.failed]
    assert not any(better(out, kept, objective) for out, kept in itertools.product(left, on))
    assert not any(trial.failed for trial in on)
    assert len(on) == min(10, len(on) + len(left))
    best = chosen(trials, objective)
    sound = [trial for trial in trials if not trial.failed]
    assert (best is None) == (not sound)
    assert best is None or not any(better(each, best, objective) for each in sound)


def test_a_third_goes_on_and_two_at_least() -> None:
    assert [rung_size(27, rung) for rung in range(5)] == [27, 9, 3, 2, 2]
    assert [rung_size(10, rung) for rung in range(3)] == [10, 4, 2]
    assert [rung_size(2, rung) for rung in range(3)] == [2, 2, 2]
    assert [rung_size(1, rung) for rung in range(3)] == [1, 1, 1]


@given(st.integers(1, 1000), st.integers(0, 9))
def test_a_rung_is_never_larger_than_the_one_before(tried: int, rung: int) -> None:
    assert rung_size(tried, rung) >= rung_size(tried, rung + 1)
    assert rung_size(tried, 0) == tried


def with_curves(*curves: tuple[Search, Setting, list[float]]) -> list[Trial]:
    made = []
    for search, setting, accuracies in curves:
        cell = {"scenario": search.scenario, "strategy": setting.label}
        made.append(Trial(search, setting, [{**run("", curve(accuracies)), **cell}]))
    return made


def test_the_target_is_a_share_of_what_the_best_entry_reaches_with_any_setting() -> None:
    """Eleven bytes a point; the walk's best setting puts FedAvg's out of reach."""
    good, bad = WALK.settings[:2]
    trials = with_curves(
        (FEDAVG, FEDAVG.settings[0], [0.1, 0.8, 0.8, 0.8, 0.8]),
        (WALK, bad, [0.1, 0.5, 0.95, 0.95, 0.95]),
        (WALK, good, [0.1, 0.5, 0.5, 1.0, 1.0]),
    )
    measure(trials, [100], margin=0.1, metric="accuracy")
    found = [trial.results[0] for trial in trials]
    assert [each["target"] for each in found] == pytest.approx([0.9] * 3)
    assert [each["kept_bytes"] for each in found] == [None, 22, 33]
    assert [each["seeds"] for each in found] == [[100]] * 3
    assert chosen(trials[1:], "kept-bytes") is trials[1]
    assert chosen(trials[1:], "accuracy") is trials[2]


def test_what_failed_sets_no_target() -> None:
    trials = with_curves(
        (FEDAVG, FEDAVG.settings[0], [0.1, 0.8, 0.8]),
        (FEDAVG, FEDAVG.settings[1], [0.1, 1.0, 1.0]),
    )
    trials[1].failed = "failed on seed 101"
    measure(trials, [100, 101], margin=0.0, metric="accuracy")
    assert trials[0].results[0]["target"] == 0.8
    assert trials[1].results == []


def test_where_all_that_went_on_fail_the_best_of_the_rung_before_is_chosen() -> None:
    trials = trials_of(FEDAVG, [(n, 0, False) for n in (5, 4, 3, 2)])
    first, second = going_on(trials, 3, "kept-bytes")
    assert [first, second] == [trials[3], trials[2]]
    for trial in (first, second):
        trial.results *= 2
        trial.failed = "diverged on seed 102"
    assert chosen(trials, "kept-bytes") is trials[1]
    for trial in trials:
        trial.failed = "diverged on seed 100"
    assert chosen(trials, "kept-bytes") is None


def test_what_came_further_is_chosen_before_what_looked_better_on_fewer_seeds() -> None:
    trials: list[Any] = trials_of(FEDAVG, [(1, 5, False), (2, 0, False)])
    trials[1].results.append({**trials[1].results[0], "kept_bytes": math.inf})
    assert chosen(trials, "kept-bytes") is trials[1]
