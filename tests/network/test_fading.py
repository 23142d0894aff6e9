"""Fading: of the right spread, the same both ways and again, another in each step and link."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from mfd_flower.config import NetworkConfig
from mfd_flower.network import Fading, WirelessOptions, WirelessWorld
from mfd_flower.network.fading import Kind
from mfd_flower.network.world import EDGE, Transfer

NODES = np.arange(300)


def power(kind: Kind, k_db: float, at_s: float = 0.0, seed: int = 1) -> np.ndarray:
    fading = Fading(kind, k_db, 1.0, seed)
    return 10 ** (fading.gains_db(at_s, NODES[:, None], NODES + 1000) / 10)


@pytest.mark.parametrize(("kind", "k_db"), [("rayleigh", -300.0), ("rician", 0.0), ("rician", 9.0)])
def test_the_mean_power_is_kept_and_the_spread_is_that_of_the_kind(kind: Kind, k_db: float) -> None:
    """A Rician power has variance (1 + 2 K) / (1 + K)^2; K = 0 is Rayleigh's."""
    drawn, k = power(kind, k_db), 10 ** (k_db / 10)
    assert drawn.mean() == pytest.approx(1, abs=0.01)
    assert drawn.var() == pytest.approx((1 + 2 * k) / (1 + k) ** 2, rel=0.03)


def test_a_rayleigh_power_is_exponential() -> None:
    assert kstest(power("rayleigh", 0.0).ravel(), "expon").pvalue > 0.01


def test_both_ways_and_again_are_the_same_and_all_else_differs() -> None:
    fading = Fading("rician", 9.0, 0.5, 3)
    there = fading.gains_db(7.2, NODES[:, None], NODES)
    np.testing.assert_array_equal(there, there.T)
    np.testing.assert_array_equal(there[5, 7:9], fading.gains_db(7.4, 5, [7, 8]))
    assert (there[5, 7:9] != fading.gains_db(7.6, 5, [7, 8])).all()
    assert len(np.unique(there[np.triu_indices(300)])) > 45_000
    others = power("rayleigh", 0.0, seed=2)
    assert abs(np.corrcoef(power("rayleigh", 0.0).ravel(), others.ravel())[0, 1]) < 0.02
    assert fading.next_change_s(7.2) == 7.5


def world(fading: str) -> WirelessWorld:
    options = WirelessOptions(width_m=300.0, height_m=300.0, fading=fading)  # type: ignore[arg-type]
    return WirelessWorld(NetworkConfig(), 30, 0, options)


def test_rates_of_those_who_stand_still_change_with_it_and_scatter_around_those_without() -> None:
    faded, plain = world("rayleigh"), world("none")
    assert plain.next_change_s(3.3) == np.inf
    assert faded.next_change_s(3.3) == 4.0
    near = plain.neighbours("n0", 0.0)
    assert faded.neighbours("n0", 5.0) == near
    links = [
        Transfer("n0", near[0], "d2d"),
        Transfer("n1", EDGE, "up"),
        Transfer(EDGE, "n2", "down"),
    ]
    for link in links:
        rates = np.array([faded.rates_bps([link], float(at_s))[0] for at_s in range(400)])
        without = float(plain.rates_bps([link], 0.0)[0])
        assert len(np.unique(rates)) > 20
        assert rates.min() < without
        assert 0.5 * without < rates.mean() < 1.2 * without
        assert faded.rates_bps([link], 7.9)[0] == rates[7]
    alone = faded.links_bps("n0", near, 3.0)
    each = [faded.rates_bps([Transfer("n0", name, "d2d")], 3.0)[0] for name in near]
    np.testing.assert_allclose(alone, each, rtol=1e-9)
