"""Fast fading: by how much a link's power differs from its mean, drawn anew in each step of time.

Block fading, the same both ways. What is drawn depends on seed, step and both ends alone, by
a hash of them (splitmix64: Steele, Lea and Flood 2014), so that any link can be asked for at any
time, in any order, and none has to be kept.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Kind = Literal["none", "rayleigh", "rician"]
UNITS = 1 << 24
"""Ends of links are numbers below this."""


class Fading:
    """Power gains of mean 1.

    Parameters
    ----------
    kind : {"none", "rayleigh", "rician"}
        Without a dominant path the power is exponential; with one it is that of a path `k_db`
        stronger than all others together.
    k_db : float
        3GPP TR 38.901 v17.0.0, table 7.5-6: 9 dB in the mean in a street canyon with line of sight.
    step_s : float
        How long a gain holds.
    seed : int
    """

    def __init__(self, kind: Kind, k_db: float, step_s: float, seed: int) -> None:
        self._kind, self._k = kind, 10 ** (k_db / 10)
        self._step_s, self._seed = step_s, seed

    def next_change_s(self, at_s: float) -> float:
        """Return until when gains hold."""
        return math.inf if self._kind == "none" else (int(at_s / self._step_s) + 1) * self._step_s

    def gains_db(self, at_s: float, ones: ArrayLike, others: ArrayLike) -> Floats:
        """Return the gains at a time between ends by number, which broadcast."""
        if self._kind == "none":
            return np.zeros(())
        one, other = np.broadcast_arrays(np.asarray(ones), np.asarray(others))
        low, high = np.minimum(one, other), np.maximum(one, other)
        link = low.astype(np.uint64) * np.uint64(UNITS) + high.astype(np.uint64)
        step = int(at_s / self._step_s)
        first, second = (self._uniform(step, link, number) for number in (0, 1))
        if self._kind == "rayleigh":
            return 10 * np.log10(-np.log(first))
        # Two normal numbers from two even ones (Box and Muller 1958).
        radius = np.sqrt(-np.log(first) / (self._k + 1))
        real = np.sqrt(self._k / (self._k + 1)) + radius * np.cos(2 * np.pi * second)
        return 10 * np.log10(real**2 + (radius * np.sin(2 * np.pi * second)) ** 2)

    def _uniform(self, step: int, link: NDArray[np.uint64], number: int) -> Floats:
        """Return an even number from 0 to 1, neither included, for each link."""
        mixed = np.zeros_like(link)
        for part in (self._seed, step, number):
            mixed = _mixed(mixed ^ np.full_like(link, part))
        mixed = _mixed(mixed ^ link)
        return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
