"""The data-interest value: a case by hand, and what must hold for all."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.routing import interest

CLASSES = 4
histograms = st.lists(st.integers(0, 1000), min_size=CLASSES, max_size=CLASSES)
held = histograms.filter(any)
amounts = st.integers(1, 10**6)
losses = st.one_of(st.none(), st.floats(0, 2**53))
ages = st.one_of(st.none(), st.integers(0, 10**6))


def test_by_hand() -> None:
    """Seen (7, 1, 0) with a pseudo-count each: shares 8/11, 2/11, 1/11; novelty = surprise / ln 11.

    A node half of class 1, half of class 2 surprises by (ln 11/2 + ln 11) / 2. 100 samples and an
    age of 10 hops halve the value each.
    """
    novelty = (math.log(5.5) + math.log(11)) / 2 / math.log(11)
    value = interest([0, 9, 9], [7, 1, 0], samples=100, age=10)
    assert value == pytest.approx(novelty / 4)


def test_classes_never_seen_are_fully_new() -> None:
    assert interest([0, 5, 5], [80, 0, 0], samples=100) == pytest.approx(0.5)


@given(counts=histograms, seen=histograms, samples=st.integers(0, 10**9), age=ages, loss=losses)
def test_lies_between_0_and_1(
    counts: list[int], seen: list[int], samples: int, age: int | None, loss: float | None
) -> None:
    assert -1e-12 <= interest(counts, seen, samples=samples, age=age, loss=loss) <= 1 + 1e-12


@given(counts=held, seen=histograms)
def test_zero_without_samples_and_right_after_a_visit(counts: list[int], seen: list[int]) -> None:
    assert interest(counts, seen, samples=0) == 0
    assert interest([0] * CLASSES, seen, samples=10) == 0
    assert interest(counts, seen, samples=10, age=0) == 0


@given(seen=held, samples=amounts, age=st.integers(1, 100))
def test_rarer_classes_are_worth_more(seen: list[int], samples: int, age: int) -> None:
    values = []
    for label in sorted(range(CLASSES), key=lambda label: seen[label]):
        pure = [int(c == label) for c in range(CLASSES)]
        values.append((seen[label], interest(pure, seen, samples=samples, age=age)))
    for (rare, more), (common, less) in itertools.pairwise(values):
        assert more > less if rare < common else more == pytest.approx(less)


@given(counts=held, seen=held, few=amounts, extra=amounts, age=st.integers(1, 100))
def test_grows_with_amount(
    counts: list[int], seen: list[int], few: int, extra: int, age: int
) -> None:
    less = interest(counts, seen, samples=few, age=age)
    assert interest(counts, seen, samples=few + extra, age=age) > less


@given(counts=held, seen=held, age=st.integers(0, 10**4), later=st.integers(1, 10**4))
def test_grows_with_age_up_to_never_visited(
    counts: list[int], seen: list[int], age: int, later: int
) -> None:
    fresh, stale, never = (
        interest(counts, seen, samples=50, age=a) for a in (age, age + later, None)
    )
    assert fresh < stale < never


@given(counts=held, seen=held, samples=amounts, loss=st.floats(0, 20), more=st.floats(0.01, 5))
def test_grows_with_loss_up_to_an_unknown_one(
    counts: list[int], seen: list[int], samples: int, loss: float, more: float
) -> None:
    low, high, unknown = (
        interest(counts, seen, samples=samples, loss=each) for each in (loss, loss + more, None)
    )
    assert low < high < unknown
    assert unknown == interest(counts, seen, samples=samples)


def test_a_loss_is_worth_the_probability_that_the_model_missed() -> None:
    """A model that gave every label a probability of 1/4 has 3/4 to learn there."""
    whole = interest([5, 5], [1, 9], samples=50)
    assert interest([5, 5], [1, 9], samples=50, loss=math.log(4)) == pytest.approx(0.75 * whole)
    assert interest([5, 5], [1, 9], samples=50, loss=0.0) == 0


@given(counts=held, samples=amounts)
def test_an_empty_history_may_be_left_empty(counts: list[int], samples: int) -> None:
    empty = interest(counts, [], samples=samples)
    assert empty == interest(counts, [0] * CLASSES, samples=samples)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="seen = 3: as many classes as the node has: 2"):
        interest([1, 2], [1, 2, 3], samples=3)
