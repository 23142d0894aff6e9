"""Better versions are admitted at the stated level, worse ones are not, and few know the past."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError, build
from mfd_flower.ledger.history import History, Update
from mfd_flower.ledger.poisoning import (
    Admission,
    Evidence,
    Measured,
    Verdict,
    comparable,
    judge,
    signed_rank_score,
)

sizes = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)


def measured(losses: NDArray[np.float64]) -> Measured:
    """Two classes: right where the true class has more than half of the probability."""
    return Measured(losses, losses < math.log(2))


def drawn_losses(seed: int, count: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(0.5, 1.0, count)


def update(norm: float, seed: int = 0, size: int = 500) -> Update:
    """A random direction of the given length."""
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Update.between({"w": torch.zeros(size)}, {"w": values * norm / values.norm()})


def history_of(norms: list[float]) -> History:
    history = History()
    for seed, norm in enumerate(norms):
        history = history.after(update(norm, seed))
    return history


ALIKE = history_of([3.0, 2.8, 3.1, 2.9, 3.2, 3.0, 2.7, 3.0])
FINE = measured(np.full(20, 0.1))


STEP, USUAL = update(3.0, 99), Admission()


def verdict_on(change: Update, history: History = ALIKE) -> Verdict:
    return judge(Evidence(FINE, FINE, change), history, Admission())


def compared(arrived: Measured, parent: Measured, admission: Admission = USUAL) -> Verdict:
    """Judge by the samples alone: no update was accepted before."""
    return judge(Evidence(arrived, parent, STEP), History(), admission)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, count=sizes)
def test_a_version_that_is_better_on_every_sample_is_never_refused(seed: int, count: int) -> None:
    losses = drawn_losses(seed, count)
    found = compared(measured(losses * 0.9), measured(losses), Admission(false_refusal=0.5))
    assert found == Verdict(True)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, count=st.integers(20, 60), factor=st.floats(1.01, 10))
def test_a_version_that_is_worse_on_every_sample_is_refused_by_its_loss(
    seed: int, count: int, factor: float
) -> None:
    """Though its mean loss may hardly differ, and its accuracy not at all."""
    losses = drawn_losses(seed, count) + 0.01
    found = compared(measured(losses * factor), measured(losses))
    assert (found.accepted, found.reason) == (False, "loss")
    assert found.measured > found.limit


def test_one_sample_gone_wrong_refuses_nothing_however_wrong() -> None:
    losses = drawn_losses(1, 40)
    worse = losses * np.where(np.arange(40) % 2, 1.05, 0.95)
    worse[0] = 1e6
    assert compared(measured(worse), measured(losses)).accepted


@pytest.mark.parametrize("count", [5, 19, 75])
def test_versions_no_better_nor_worse_are_refused_at_the_stated_level(count: int) -> None:
    """Whatever the size of the hold-out; the two tests together at most twice their level."""
    admission, trials, refused = Admission(false_refusal=0.05), 1000, 0
    for seed in range(trials):
        one, two = drawn_losses(2 * seed, count), drawn_losses(2 * seed + 1, count)
        refused += not compared(measured(one), measured(two), admission).accepted
    three_sigma = 3 * math.sqrt(0.1 * 0.9 / trials)
    assert refused / trials <= 2 * admission.false_refusal + three_sigma


def test_signed_rank_by_hand() -> None:
    """Sizes 1, 2, 2, 5 rank 1, 2.5, 2.5, 4; signs + - + +; (1 + 2.5 + 4 - 2.5) / sqrt(29.5)."""
    score = signed_rank_score(np.array([1.0, -2.0, 0.0, 2.0, 5.0]))
    assert score == pytest.approx(5 / math.sqrt(29.5))


@settings(max_examples=60, deadline=None)
@given(differences=st.lists(st.integers(-5, 5), min_size=1, max_size=7))
def test_signed_rank_is_standard_over_all_signs(differences: list[int]) -> None:
    """Brute force over every assignment of signs: mean 0, variance 1."""
    values = np.abs(np.array(differences, dtype=float))
    scores = [
        signed_rank_score(values * signs)
        for signs in itertools.product([-1, 1], repeat=len(values))
    ]
    assert np.mean(scores) == pytest.approx(0, abs=1e-9)
    assert np.var(scores) == pytest.approx(1 if values.any() else 0)


def test_accuracy_is_compared_where_the_loss_says_nothing() -> None:
    """Twelve samples lost and none won, at losses that moved the other way on as many more."""
    parent = Measured(np.full(60, 0.5), np.ones(60, dtype=bool))
    losses = np.where(np.arange(60) < 30, 0.6, 0.4)
    arrived = Measured(losses, np.arange(60) >= 12)
    found = compared(arrived, parent)
    assert (found.accepted, found.reason) == (False, "accuracy")


def test_no_samples_admit() -> None:
    nothing = Measured(np.zeros(0), np.zeros(0, dtype=bool))
    assert compared(nothing, nothing).accepted


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_but_a_broken_parent_is_no_reason(broken: float) -> None:
    bad = measured(np.array([0.1, broken]))
    assert compared(bad, measured(np.full(2, 0.1))).reason == "not-finite"
    assert compared(measured(np.array([0.1, 5.0])), bad).accepted
    change = Update.between({"w": torch.zeros(3)}, {"w": torch.tensor([1.0, broken, 0.0])})
    assert verdict_on(change).reason == "not-finite"


@settings(max_examples=60, deadline=None)
@given(norm=st.floats(2.7, 3.2), seed=st.integers(100, 200))
def test_updates_like_those_accepted_are_admitted(norm: float, seed: int) -> None:
    assert verdict_on(update(norm, seed)).accepted


@settings(max_examples=60, deadline=None)
@given(factor=st.floats(1.8, 1e6))
def test_updates_far_larger_than_those_accepted_are_refused(factor: float) -> None:
    found = verdict_on(update(3.0 * factor, 99))
    assert (found.accepted, found.reason) == (False, "norm")
    assert found.measured == pytest.approx(factor)


def test_one_accepted_update_allows_more_than_many() -> None:
    one = history_of([3.0])
    assert verdict_on(update(6.0, 99), one).accepted
    assert verdict_on(update(9.0, 99), one).reason == "norm"
    assert verdict_on(update(6.0, 99), ALIKE).reason == "norm"


def test_small_updates_are_admitted_but_none_at_all_is_not() -> None:
    assert verdict_on(update(0.01, 99)).accepted
    same = {"w": torch.ones(3)}
    assert verdict_on(Update.between(same, same)).reason == "unchanged"


def test_way_back_is_refused() -> None:
    """A parent sent again as its own child's successor undoes the last update."""
    last = update(3.0, 7)
    back = dataclasses.replace(last, direction=-last.direction)
    history = ALIKE.after(last).after(last)
    assert verdict_on(last, history).accepted
    assert verdict_on(back, history).reason == "direction"


def test_few_liars_do_not_move_the_norm_that_is_allowed() -> None:
    """Up to half of the remembered norms may be anything; an accepted one moves it little."""
    forged = History((100.0,) * 3 + ALIKE.log_norms, ALIKE.direction)
    assert not verdict_on(update(9.0, 99), forged).accepted


def test_only_classes_that_the_author_holds_are_compared() -> None:
    labels = np.array([0, 1, 2, 1])
    assert comparable(labels, np.array([0, 90, 4])).tolist() == [False, True, False, True]
    assert comparable(labels, np.array([30, 30, 30])).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("false_refusal", 0.0),
        ("false_refusal", 0.6),
        ("norm_mads", math.nan),
        ("norm_mads", math.inf),
        ("norm_ratio", 1.0),
        ("least_cosine", -1.5),
    ],
)
def test_bad_admission_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"admission\.{name} = {value!r}: must be"):
        build(Admission, {name: value}, "admission.")
