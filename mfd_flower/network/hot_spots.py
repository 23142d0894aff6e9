"""Where the terminals of a site are: most of them in a few places, which may move."""

from __future__ import annotations

import numpy as np

from mfd_flower.network.panel import Floats

NEAREST_M = 10.0
"""The least distance of the path loss tables."""


def places_in_cell_m(
    count: int,
    radius_m: float,
    spots: int,
    spot_m: float,
    hot_share: float,
    moved_m: float,
    rng: np.random.Generator,
) -> Floats:
    """Return places of terminals from their base station, ``(count, 2)``.

    All lie between `NEAREST_M` and `radius_m`. Spots have unequal shares of the terminals.

    Parameters
    ----------
    count
        Terminals.
    radius_m
        Of the cell, which is round; at least ``NEAREST_M + 2 * spot_m``.
    spots
        Hot spots, discs of radius `spot_m` in which places are even.
    hot_share
        Likelihood of a terminal to be in one of them; others are anywhere in the cell.
    moved_m
        How far each spot has moved, round the base station one way or the other.
    rng
        Draws the spots first, so that they are where they were for any `count` and `moved_m`.
    """
    away_m = _radii(rng.random(spots), NEAREST_M + spot_m, radius_m - spot_m)
    towards = rng.random(spots) * 2 * np.pi + rng.choice([-1, 1], spots) * moved_m / away_m
    weights = rng.dirichlet(np.ones(spots)) if spots else np.zeros(0)
    middles = away_m[:, None] * _unit(towards)
    anywhere = _radii(rng.random(count), NEAREST_M, radius_m)[:, None] * _unit(_turns(count, rng))
    if not spots:
        return anywhere
    within = _radii(rng.random(count), 0.0, spot_m)[:, None] * _unit(_turns(count, rng))
    in_spots = middles[rng.choice(spots, count, p=weights)] + within
    return np.where(rng.random((count, 1)) < hot_share, in_spots, anywhere)


def _radii(even: Floats, low_m: float, high_m: float) -> Floats:
    """Return distances that make places even over a ring, of numbers that are from 0 to 1."""
    return np.sqrt(low_m**2 + even * (high_m**2 - low_m**2))


def _turns(count: int, rng: np.random.Generator) -> Floats:
    return rng.random(count) * 2 * np.pi


def _unit(angle_rad: Floats) -> Floats:
    return np.stack([np.cos(angle_rad), np.sin(angle_rad)], axis=-1)
