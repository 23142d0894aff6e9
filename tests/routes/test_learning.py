"""A learning curve through points is found again, and stays what an accuracy may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.routes import PowerLaw


@given(st.floats(0.6, 1.0), st.floats(0.1, 1.0), st.floats(0.2, 1.5))
def test_a_curve_is_found_from_its_own_points(best: float, lacks: float, power: float) -> None:
    samples = np.array([10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])
    points = best - best * lacks * (samples / 10.0) ** -power
    found = PowerLaw.fit(samples, points)
    np.testing.assert_allclose(found.best - found.scale * samples**-found.power, points, atol=2e-3)


@given(st.floats(0, 1), st.floats(0, 100), st.floats(0.01, 5))
def test_accuracies_are_shares_and_rise_with_samples(
    best: float, scale: float, power: float
) -> None:
    found = PowerLaw(best, scale, power).accuracy(np.arange(1.0, 5000.0, 50.0))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()


def test_nothing_seen_is_nothing_known() -> None:
    assert PowerLaw(0.9, 0.5, 0.5).accuracy([0, 1, 1e12]).tolist() == pytest.approx([0, 0.4, 0.9])


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples = 2: three measured points"):
        PowerLaw.fit([1, 2], [0.5, 0.6])
