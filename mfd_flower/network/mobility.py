"""How nodes move over a rectangle: random waypoint and Gauss-Markov, settled from the start.

A simulation that starts from uniform places and fresh legs takes minutes to settle; here the first
leg is drawn as a node is found in the midst of it at a random moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError, bounded, check_fields
from mfd_flower.network.tracks import Floats, Legs, Tracks

FIRST, LATER = 0, 1
"""Purposes of generators."""


@dataclass(frozen=True)
class Speeds:
    """Speeds drawn evenly from a range, in metres a second.

    Walking is 0.8 to 1.4, a car in town 8 to 14. A range that begins at 0 has no long run: legs of
    near 0 would take ever more of the time (Yoon, Liu and Noble 2003, *Random waypoint considered
    harmful*).
    """

    low_m_per_s: float = bounded(0.8, 0.0, open_low=True)
    high_m_per_s: float = bounded(1.4, 0.0, open_low=True)

    def __post_init__(self) -> None:
        check_fields(Speeds, self, ConfigError)
        if self.high_m_per_s < self.low_m_per_s:
            raise ConfigError("high_m_per_s", self.high_m_per_s, f"at least {self.low_m_per_s:g}")

    def drawn(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw the speed of a leg that begins."""
        return rng.uniform(self.low_m_per_s, self.high_m_per_s, count)

    def met(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw the speed at a random moment: slow legs take longer, its density falls as 1/v."""
        low, high = np.log(self.low_m_per_s), np.log(self.high_m_per_s)
        return np.exp(rng.uniform(low, high, count))

    @property
    def mean_slowness(self) -> float:
        """Mean of 1/v over legs, in seconds a metre."""
        low, high = self.low_m_per_s, self.high_m_per_s
        return 1 / low if high == low else float(np.log(high / low) / (high - low))


@dataclass(frozen=True)
class Waypoint:
    """Random waypoint: to a place anywhere, at a speed of its own, a pause, and on.

    Johnson and Maltz 1996, section 4; begun as in Navidi and Camp 2004, *Stationary distributions
    for the random waypoint mobility model*, section 3: in a pause with the share of time that
    pauses take, else in a leg with a probability in proportion to its length.
    """

    width_m: float
    height_m: float
    speeds: Speeds = field(default_factory=Speeds)
    pause_s: float = bounded(0.0, 0.0)
    """The longest pause; pauses are drawn evenly from 0 on."""

    def tracks(self, nodes: int, seed: int) -> Tracks:
        """Return the tracks of so many nodes."""
        rng = np.random.default_rng([seed, FIRST])
        starts, ends = self._long_legs(rng, nodes)
        places = starts + rng.random((nodes, 1)) * (ends - starts)
        seconds = np.linalg.norm(ends - places, axis=1) / self.speeds.met(rng, nodes)
        pausing = rng.random(nodes) < self._pausing_share
        # A pause of mean length is found in its midst: what is left of it is a third of the most.
        left = self.pause_s * (1 - np.sqrt(rng.random(nodes)))
        anywhere = self._anywhere(rng, nodes)
        places[pausing], ends[pausing] = anywhere[pausing], anywhere[pausing]
        seconds[pausing] = left[pausing]
        first = Legs(np.maximum(seconds, 1e-9), ends)

        def following(number: int, at_m: Floats) -> Legs:
            # Legs of odd numbers are pauses, but for those nodes that began with one.
            rng = np.random.default_rng([seed, LATER, number])
            goes = np.array(number % 2 == 0) != pausing
            ends = np.where(goes[:, None], self._anywhere(rng, nodes), at_m)
            walk = np.linalg.norm(ends - at_m, axis=1) / self.speeds.drawn(rng, nodes)
            seconds = np.where(goes, walk, self.pause_s * rng.random(nodes))
            return Legs(np.maximum(seconds, 1e-9), ends)

        return Tracks(first, places, following)

    def _anywhere(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.random((count, 2)) * [self.width_m, self.height_m]

    def _long_legs(self, rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        """Draw legs with a probability in proportion to their length, by rejection."""
        longest = np.hypot(self.width_m, self.height_m)
        found: list[NDArray[np.float64]] = []
        while sum(map(len, found)) < count:
            pairs = np.stack([self._anywhere(rng, 4 * count), self._anywhere(rng, 4 * count)], 1)
            length = np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1)
            found.append(pairs[rng.random(len(pairs)) * longest < length])
        pairs = np.concatenate(found)[:count]
        return pairs[:, 0].copy(), pairs[:, 1].copy()

    @property
    def _pausing_share(self) -> float:
        walk_s = mean_leg_m(self.width_m, self.height_m) * self.speeds.mean_slowness
        return self.pause_s / 2 / (self.pause_s / 2 + walk_s)


def mean_leg_m(width_m: float, height_m: float) -> float:
    """Return the mean distance of two places in a rectangle (Ghosh 1951)."""
    a, b = max(width_m, height_m), min(width_m, height_m)
    d = np.hypot(a, b)
    if b == 0:
        return a / 3
    cubes = a**3 / b**2 + b**3 / a**2 + d * (3 - a**2 / b**2 - b**2 / a**2)
    logs = b**2 / a * np.log((a + d) / b) + a**2 / b * np.log((b + d) / a)
    return float(cubes / 15 + logs / 6)


@dataclass(frozen=True)
class GaussMarkov:
    """Gauss-Markov: velocities that are alike from one second to the next (Liang and Haas 1999).

    ``v' = memory v + (1 - memory) mean + sqrt(1 - memory^2) deviation noise`` in each direction; at
    the border a node is reflected. The mean is zero, so that places spread evenly, from the start.
    """

    width_m: float
    height_m: float
    deviation_m_per_s: float = bounded(1.0, 0.0, open_low=True)
    """Standard deviation of each component of the velocity."""
    memory: float = bounded(0.85, 0.0, 0.999)
    """Of a velocity, what is left of it after `step_s`: 0 forgets it at once."""
    step_s: float = bounded(1.0, 0.0, open_low=True)

    def tracks(self, nodes: int, seed: int) -> Tracks:
        """Return the tracks of so many nodes, reflected at the borders."""
        size = np.array([self.width_m, self.height_m])
        rng = np.random.default_rng([seed, FIRST])
        starts = rng.random((nodes, 2)) * size
        velocities = [self.deviation_m_per_s * rng.standard_normal((nodes, 2))]
        unfolded = [starts, starts + self.step_s * velocities[0]]
        seconds = np.full(nodes, self.step_s)

        def following(number: int, at_m: Floats) -> Legs:
            noise = np.random.default_rng([seed, LATER, number]).standard_normal((nodes, 2))
            fresh = np.sqrt(1 - self.memory**2) * self.deviation_m_per_s * noise
            velocities[0] = self.memory * velocities[0] + fresh
            unfolded[1] = unfolded[1] + self.step_s * velocities[0]
            return Legs(seconds, _folded(unfolded[1], size))

        return Tracks(Legs(seconds, _folded(unfolded[1], size)), starts, following)


def _folded(places_m: Floats, size_m: Floats) -> Floats:
    """Return where a straight way ends that every border reflects."""
    return size_m - np.abs(places_m % (2 * size_m) - size_m)
