"""Noise for a budget: the definition itself holds, tightly, for any two sums a sample apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from mfd_flower.models.privacy import (
    delta_of,
    epsilon_of,
    gaussian_sigma,
    noised,
    sums_sensitivity,
)
from mfd_flower.models.sums import Sums

CLASSES = 3


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_the_noise_is_just_enough(epsilon: float, delta: float) -> None:
    """By the definition: the mass of p beyond e^epsilon q, for normals a sensitivity apart."""
    sigma = gaussian_sigma(epsilon, delta, 3.0)

    def beyond(sigma: float) -> float:
        def excess(x: float) -> float:
            here, there = norm.pdf(x, 3.0, sigma), norm.pdf(x, 0.0, sigma)
            return float(max(0.0, here - np.exp(epsilon) * there))

        border = 1.5 + epsilon * sigma**2 / 3.0
        return float(quad(excess, border, border + 40 * sigma, limit=500, epsabs=1e-14)[0])

    assert beyond(sigma) <= delta * 1.001
    assert beyond(sigma * 0.98) > delta
    assert delta_of(sigma, epsilon, 3.0) == pytest.approx(beyond(sigma), rel=1e-3)


@given(st.integers(0, 2**31), st.integers(1, 8), st.sampled_from([1, 7, 100]))
def test_no_sample_moves_sums_by_more(seed: int, features: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-largest, largest + 1, (5, features))
    y = rng.integers(0, CLASSES, 5)
    longest = float(np.linalg.norm(x, axis=1).max())
    moved = Sums.of(x, y, CLASSES).cells - Sums.of(x[1:], y[1:], CLASSES).cells
    assert np.linalg.norm(moved) <= sums_sensitivity(longest, largest) * (1 + 1e-12)
    full = np.full((1, features), largest)
    moved = Sums.of(full, y[:1], CLASSES).cells
    bound = sums_sensitivity(largest * features**0.5, largest)
    assert np.linalg.norm(moved) == pytest.approx(bound)


@given(
    sigma=st.floats(0.3, 20.0),
    delta=st.floats(1e-9, 0.1),
    sensitivity=st.floats(0.1, 10.0),
    times=st.integers(1, 50),
)
def test_a_budget_is_what_the_noise_is_worth(
    sigma: float, delta: float, sensitivity: float, times: int
) -> None:
    """The inverse of `gaussian_sigma`; more releases never cost less, nor more than their sum."""
    epsilon = epsilon_of(sigma, delta, sensitivity)
    if epsilon > 1e-3:
        assert gaussian_sigma(epsilon, delta, sensitivity) == pytest.approx(sigma, rel=1e-3)
    else:
        assert delta_of(sigma, 1e-3, sensitivity) <= delta
    many = epsilon_of(sigma, delta, sensitivity * times**0.5)
    assert epsilon <= many * (1 + 1e-9)
    assert many <= times * epsilon_of(sigma, delta / times, sensitivity) * (1 + 1e-6) + 1e-6


def test_noise_has_the_spread_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-7, 8, (5000, 60)), rng.integers(0, CLASSES, 5000)
    own = Sums.of(x, y, CLASSES)
    off = noised(own, 20.0, rng).cells - own.cells
    assert np.std(off) == pytest.approx(20.0, rel=0.05)
    assert abs(np.mean(off)) < 2.0


@given(st.integers(0, 2**31), st.integers(0, 5))
def test_noised_sums_are_sums(seed: int, count: int) -> None:
    """They travel as others do, though noise makes more of a class than there is, or less."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-7, 8, (count, 4)), rng.integers(0, CLASSES, count)
    found = noised(Sums.of(x, y, CLASSES), 50.0, rng)
    assert (found.counts >= 0).all()
    back = Sums.from_bytes(found.to_bytes(), 4, CLASSES)
    assert back.cells.tolist() == found.cells.tolist()
