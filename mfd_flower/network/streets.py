"""Nodes in the streets of a town whose blocks are alike: Manhattan mobility."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import bounded
from mfd_flower.network.mobility import FIRST, LATER, Speeds
from mfd_flower.network.tracks import Floats, Legs, Tracks

HEADINGS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""East, north, west, south; a turn to the left is one further."""


@dataclass(frozen=True)
class Manhattan:
    """Along streets between square blocks, at each crossing on or round the corner.

    UMTS 30.03 v3.2.0 (TR 101 112), annex B 1.6.4.1: straight on with probability 1/2, else to
    either side. At the edge of town a turn that is not there is taken to the other side, and who
    cannot go straight on turns: so all ways are gone as often, in the long run and from the start.
    Every leg, of one block, has a speed of its own.
    """

    blocks_wide: int = bounded(10, 1)
    blocks_high: int = bounded(10, 1)
    block_m: float = bounded(100.0, 0.0, open_low=True)
    speeds: Speeds = field(default_factory=lambda: Speeds(8.0, 14.0))

    def tracks(self, nodes: int, seed: int) -> Tracks:
        """Return the tracks of so many nodes."""
        rng = np.random.default_rng([seed, FIRST])
        crossings, heading = self._start(rng, nodes)
        ends = crossings + HEADINGS[heading]
        begun = rng.random(nodes)
        starts_m = self.block_m * (crossings + begun[:, None] * HEADINGS[heading])
        seconds = (1 - begun) * self.block_m / self.speeds.met(rng, nodes)
        state = [heading]

        def following(number: int, at_m: Floats) -> Legs:
            rng = np.random.default_rng([seed, LATER, number])
            at = np.rint(at_m / self.block_m).astype(np.int64)
            state[0] = self._turned(rng, at, state[0])
            next_m = self.block_m * (at + HEADINGS[state[0]])
            return Legs(self.block_m / self.speeds.drawn(rng, nodes), next_m)

        first = Legs(np.maximum(seconds, 1e-9), self.block_m * ends.astype(np.float64))
        return Tracks(first, starts_m, following)

    def _start(
        self, rng: np.random.Generator, nodes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw where a first block of street begins, and its direction; all are as likely."""
        wide, high = self.blocks_wide, self.blocks_high
        along = rng.random(nodes) < wide * (high + 1) / (wide * (high + 1) + high * (wide + 1))
        low_x = rng.integers(0, np.where(along, wide, wide + 1))
        low_y = rng.integers(0, np.where(along, high + 1, high))
        back = rng.random(nodes) < 0.5
        heading = np.where(along, 0, 1) + 2 * back
        shift = np.where(back[:, None], np.where(along[:, None], [1, 0], [0, 1]), 0)
        return np.stack([low_x, low_y], axis=1) + shift, heading

    def _turned(
        self, rng: np.random.Generator, at: NDArray[np.int64], heading: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Draw the next headings at crossings."""
        ways = (heading[:, None] + [0, 1, 3]) % 4
        ahead = at[:, None] + HEADINGS[ways]
        straight, left, right = (
            (ahead >= 0).all(-1) & (ahead <= [self.blocks_wide, self.blocks_high]).all(-1)
        ).T
        sides = 0.25 * left * (2 - right), 0.25 * right * (2 - left)
        sums = np.stack([0.5 * straight, *sides], axis=1).cumsum(1)
        drawn = rng.random(len(at)) * sums[:, -1]
        return ways[np.arange(len(at)), (sums <= drawn[:, None]).sum(1)]
