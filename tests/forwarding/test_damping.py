"""Damping falls on a straight line, and with how far labels are from what was seen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.forwarding.damping import Damping
from mfd_flower.routing import kl_divergence

shares = st.floats(0.01, 1.0)


def test_a_straight_line_over_the_tours() -> None:
    damping = Damping(1.0, 0.2, 2.0)
    found = [damping.at(hop, nodes=10) for hop in (1, 11, 21, 500)]
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])


@given(start=shares, end=shares, tours=st.floats(0, 5), hop=st.integers(1, 200))
def test_never_outside_its_two_ends(start: float, end: float, tours: float, hop: int) -> None:
    share = Damping(start, end, tours).at(hop, nodes=10)
    assert min(start, end) - 1e-12 <= share <= max(start, end) + 1e-12


def test_labels_like_the_seen_ones_cost_nothing() -> None:
    damping = Damping(skew=0.5)
    assert damping.of_labels([3.0, 1.0], [300.0, 100.0]) == pytest.approx(1.0, abs=0.01)
    unlike = kl_divergence([20.0, 0.0], [0.0, 20.0])
    assert damping.of_labels([20.0, 0.0], [0.0, 20.0]) == pytest.approx(math.exp(-0.5 * unlike))
    assert Damping().of_labels([20.0, 0.0], [0.0, 20.0]) == 1.0


@pytest.mark.parametrize("name", ["start", "end", "tours", "skew"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_values_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^options.damping_{name} = "):
        Damping(**{name: value})
