"""Sites: where their terminals are, and what stands around."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.network import sight_probability
from mfd_flower.network.hot_spots import NEAREST_M, places_in_cell_m
from mfd_flower.network.multipath import Air
from mfd_flower.network.surroundings import Surroundings

AIR = Air("umi", 3.5e9, 10.0, 1.5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(0, 5), st.floats(1, 30), st.floats(0, 1), st.floats(0, 300)
)
def test_terminals_are_in_their_cell_and_not_nearer_than_the_tables_go(
    seed: int, spots: int, spot_m: float, hot_share: float, moved_m: float
) -> None:
    rng = np.random.default_rng(seed)
    places_m = places_in_cell_m(200, 100.0, spots, spot_m, hot_share, moved_m, rng)
    away_m = np.linalg.norm(places_m, axis=1)
    assert away_m.min() >= NEAREST_M - 1e-9
    assert away_m.max() <= 100 + 1e-9


def test_hot_spots_move_as_far_as_they_should_and_take_their_terminals_along() -> None:
    def places_m(moved_m: float, hot_share: float) -> np.ndarray:
        rng = np.random.default_rng(5)
        return places_in_cell_m(500, 100.0, 3, 10.0, hot_share, moved_m, rng)

    moved = np.linalg.norm(places_m(1.0, 1.0) - places_m(0.0, 1.0), axis=1)
    np.testing.assert_allclose(moved, 1, rtol=1e-3)
    half = np.linalg.norm(places_m(1.0, 0.5) - places_m(0.0, 0.5), axis=1)
    assert (half == 0).mean() == pytest.approx(0.5, abs=0.06)


def ring(radius_m: float, count: int) -> np.ndarray:
    """Return places round a base station."""
    angle = 2 * np.pi * np.arange(count) / count
    return radius_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_line_of_sight_is_as_likely_as_the_table_says() -> None:
    """Over 150 sites, with 12 terminals each that are too far from each other to see alike."""
    for radius_m in (20.0, 50.0, 95.0):
        seen = [Surroundings(AIR, (0, site)).sees(ring(radius_m, 12)) for site in range(150)]
        expected = float(sight_probability("umi", radius_m))
        assert np.mean(seen) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("sees", [True, False])
def test_terminals_next_to_each_other_see_the_same_clusters_and_far_ones_others(
    sees: bool,
) -> None:
    """The share of scattered power that comes from the same tens of degrees at both."""
    places_m = ring(60.0, 300)
    near_m, far_m = places_m + np.array([0.7, 0.7]), places_m[::-1]

    def powers(offsets_m: np.ndarray, site: int) -> np.ndarray:
        rays = Surroundings(AIR, (3, site)).rays(offsets_m, sees)
        straight = np.arctan2(offsets_m[:, 1], offsets_m[:, 0])[:, None, None]
        tens = np.floor(np.degrees(rays.departure_rad - straight) / 10).astype(int) % 36
        scattered = rays.power[:, : rays.power.shape[1] - sees]
        found = np.zeros((len(offsets_m), 36))
        for user, (bins, power) in enumerate(zip(tens, scattered, strict=True)):
            np.add.at(found[user], bins[: len(power)], power)
        return found / found.sum(1, keepdims=True)

    here = powers(places_m, 1)
    near, far, elsewhere = (
        float(np.minimum(here, other).sum(1).mean())
        for other in (powers(near_m, 1), powers(far_m, 1), powers(places_m, 2))
    )
    assert near > 0.45
    assert far < near - 0.15
    assert elsewhere < near - 0.15
    np.testing.assert_array_equal(here, powers(places_m, 1))
