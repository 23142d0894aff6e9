"""Random fields over the plane whose values at near places are alike: shadowing, line of sight.

A field is a sum of plane waves with random directions and phases (Cai and Giannakis 2003, *A
two-dimensional channel simulation model for shadowing processes*): a pure function of place and
seed, so that a node that comes back finds what was there, and no grid has to be kept. Wave numbers
are drawn so that values decorrelate as ``exp(-distance / correlation_m)`` (Gudmundson 1991; 3GPP
TR 38.901 v17.0.0, section 7.4.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WAVES = 64
"""Of a field: its values are then normal to within what 10,000 samples can tell."""


class Field:
    """A field of mean 0 and variance 1.

    Parameters
    ----------
    correlation_m : float
        Distance over which the correlation falls to 1/e, in metres.
    seed : sequence of int
        Names the field: a run's seed, what it is of, whose it is.
    """

    def __init__(self, correlation_m: float, seed: tuple[int, ...]) -> None:
        rng = np.random.default_rng(seed)
        # The radial part of the spectrum of an exponential correlation in the plane has the
        # distribution function 1 - 1 / sqrt(1 + (correlation k)^2). One draw a stratum spreads the
        # wave numbers more evenly than independent draws do.
        stratum = (np.arange(WAVES) + rng.random(WAVES)) / WAVES
        number = np.sqrt(1 / (1 - stratum) ** 2 - 1) / correlation_m
        angle = rng.permutation(np.arange(WAVES) + rng.random(WAVES)) * 2 * np.pi / WAVES
        self.waves = number[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        self.phases = rng.random(WAVES) * 2 * np.pi

    def at(self, places_m: Floats) -> Floats:
        """Return the values at places ``(..., 2)``, of shape ``(...)``."""
        return np.sqrt(2 / WAVES) * np.cos(places_m @ self.waves.T + self.phases).sum(-1)


class Fields:
    """Several fields, asked for together."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._waves = np.concatenate([field.waves for field in fields]).T.copy()
        self._phases = np.concatenate([field.phases for field in fields])
        self._shape = len(fields), WAVES

    def at(self, places_m: Floats) -> Floats:
        """Return the values at places ``(..., 2)``, of shape ``(..., fields)``."""
        turned = np.cos(places_m @ self._waves + self._phases)
        return np.sqrt(2 / WAVES) * turned.reshape(*places_m.shape[:-1], *self._shape).sum(-1)
