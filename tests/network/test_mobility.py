"""Places are a function of seed and time, within bounds, at speed, and settled from the start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from mfd_flower.checks import ConfigError
from mfd_flower.network.mobility import GaussMarkov, Speeds, Waypoint, mean_leg_m
from mfd_flower.network.streets import Manhattan
from mfd_flower.network.tracks import Mobility, Static

WIDTH_M, HEIGHT_M = 600.0, 400.0
SPEEDS = Speeds(1.0, 3.0)
MODELS: dict[str, Callable[[int, int], Mobility]] = {
    "waypoint": Waypoint(WIDTH_M, HEIGHT_M, SPEEDS).tracks,
    "with pauses": Waypoint(WIDTH_M, HEIGHT_M, SPEEDS, pause_s=200.0).tracks,
    "gauss-markov": GaussMarkov(WIDTH_M, HEIGHT_M).tracks,
    "manhattan": Manhattan(6, 4, 100.0, SPEEDS).tracks,
}
each_model = pytest.mark.parametrize("model", MODELS)


@each_model
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), times=st.lists(st.floats(0, 900), min_size=1, max_size=6))
def test_a_place_depends_on_seed_and_time_and_not_on_what_was_asked_before(
    model: str, seed: int, times: list[float]
) -> None:
    tracks = MODELS[model](5, seed)
    found = [tracks.places_m(at_s) for at_s in times]
    for at_s, places in zip(times, found, strict=True):
        np.testing.assert_array_equal(MODELS[model](5, seed).places_m(at_s), places)
        assert (places >= 0).all()
        assert (places <= [WIDTH_M, HEIGHT_M]).all()


@each_model
def test_nobody_is_faster_than_its_model_says(model: str) -> None:
    tracks = MODELS[model](50, 1)
    places = np.array([tracks.places_m(0.5 * step) for step in range(1200)])
    speed = np.linalg.norm(np.diff(places, axis=0), axis=2) / 0.5
    most = 6.0 if model == "gauss-markov" else SPEEDS.high_m_per_s
    assert speed.max() <= most + 1e-9
    assert speed.mean() > 0.3


@each_model
def test_places_are_spread_at_the_start_as_later(model: str) -> None:
    """Kolmogorov and Smirnov's test on both coordinates and on the speed, 4,000 nodes each.

    Uniform places and fresh legs, as a simulation usually starts, are told apart from the waypoint
    model's long run by the same test.
    """
    tracks, size = MODELS[model](4000, 3), np.array([WIDTH_M, HEIGHT_M])
    start, later = tracks.places_m(0.0), tracks.places_m(1500.0)
    begun = np.linalg.norm(tracks.places_m(0.1) - start, axis=1)
    going = np.linalg.norm(tracks.places_m(1500.1) - later, axis=1)
    for axis in (0, 1):
        assert ks_2samp(start[:, axis], later[:, axis]).pvalue > 0.01
    assert ks_2samp(begun, going).pvalue > 0.01
    if model == "waypoint":
        anywhere = np.random.default_rng(0).random((4000, 2)) * size
        assert ks_2samp(anywhere[:, 0], later[:, 0]).pvalue < 1e-6
        fresh = np.random.default_rng(0).uniform(1, 3, 4000)
        assert ks_2samp(fresh, going / 0.1).pvalue < 1e-6


def density(x: float, y: float) -> float:
    """Return the waypoint model's density in the unit square.

    Hyytia, Lassila and Virtamo 2006, *Spatial node distribution of the random waypoint mobility
    model*, equation 10: over all directions the distances to the border ahead and behind, their
    product times their sum, over the mean leg.
    """
    angles = (np.arange(2000) + 0.5) * np.pi / 2000
    across, along = np.cos(angles), np.sin(angles)
    right = np.where(across > 0, 1 - x, x) / np.abs(across)
    left = np.where(across > 0, x, 1 - x) / np.abs(across)
    ahead, behind = np.minimum(right, (1 - y) / along), np.minimum(left, y / along)
    leg = (2 + np.sqrt(2) + 5 * np.log(1 + np.sqrt(2))) / 15
    return float((ahead * behind * (ahead + behind)).mean() * np.pi / leg)


def test_a_waypoint_field_is_as_busy_as_theory_says_everywhere() -> None:
    """At the centre (sqrt 2 + ln(1 + sqrt 2)) / 2 / 0.5214 = 2.201 times the mean."""
    assert density(0.5, 0.5) == pytest.approx(2.2013, abs=1e-3)
    places = Waypoint(1.0, 1.0, Speeds(0.01, 0.01)).tracks(1_000_000, 0).places_m(0.0)
    found, _, _ = np.histogram2d(*places.T, bins=20, range=[[0, 1], [0, 1]])
    middles = (np.arange(20) + 0.5) / 20
    expected = np.array([[density(x, y) for y in middles] for x in middles])
    np.testing.assert_allclose(found / 1_000_000 * 400, expected, atol=0.12)


def test_slow_legs_are_met_more_often_and_pauses_take_their_share() -> None:
    """Between 1 and 3 m/s the mean speed over time is 2 / ln 3 = 1.820."""
    tracks = Waypoint(WIDTH_M, HEIGHT_M, SPEEDS).tracks(100_000, 0)
    speed = np.linalg.norm(tracks.places_m(0.01) - tracks.places_m(0.0), axis=1) / 0.01
    assert speed.mean() == pytest.approx(2 / np.log(3), abs=0.01)
    leg_s = mean_leg_m(WIDTH_M, HEIGHT_M) * np.log(3) / 2
    paused = Waypoint(WIDTH_M, HEIGHT_M, SPEEDS, pause_s=200.0).tracks(100_000, 0)
    still = (paused.places_m(0.01) == paused.places_m(0.0)).all(1).mean()
    assert still == pytest.approx(100 / (100 + leg_s), abs=0.01)


@pytest.mark.parametrize(("width", "height"), [(1.0, 1.0), (3.0, 1.0), (1.0, 10.0)])
def test_the_mean_leg_is_that_of_pairs_of_places(width: float, height: float) -> None:
    pairs = np.random.default_rng(0).random((2, 400_000, 2)) * [width, height]
    expected = np.linalg.norm(pairs[0] - pairs[1], axis=1).mean()
    assert mean_leg_m(width, height) == pytest.approx(expected, rel=0.005)


def test_gauss_markov_remembers_its_velocity() -> None:
    tracks = GaussMarkov(1e7, 1e7, 2.0, memory=0.9).tracks(2000, 0)
    places = np.array([tracks.places_m(float(step)) for step in range(12)])
    velocity = np.diff(places, axis=0)[..., 0]
    assert velocity.std() == pytest.approx(2, rel=0.05)
    assert np.corrcoef(velocity[0], velocity[5])[0, 1] == pytest.approx(0.9**5, abs=0.05)


def test_in_town_one_keeps_to_the_streets_and_never_turns_back() -> None:
    tracks = Manhattan(3, 2, 100.0, Speeds(10.0, 10.0)).tracks(300, 5)
    places = np.array([tracks.places_m(at_s) for at_s in np.arange(0, 100, 2.5)])
    off = np.abs(places / 100 - np.rint(places / 100)).min(2)
    assert off.max() < 1e-9
    # Two blocks in a row, ten seconds each, bring nobody back to where it was.
    assert (np.linalg.norm(places[8:] - places[:-8], axis=2) > 1).mean() > 0.99


def test_who_stands_stays() -> None:
    places = np.random.default_rng(0).random((4, 2))
    assert Static(places).places_m(1e9) is places


def test_speeds_that_would_never_settle_are_refused() -> None:
    for low, high, line in (
        (0.0, 1.0, "low_m_per_s = 0.0: must be above 0"),
        (2.0, 1.0, "high_m_per_s = 1.0: at least 2"),
    ):
        with pytest.raises(ConfigError, match=line):
            Speeds(low, high)
