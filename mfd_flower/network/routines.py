"""When nodes are idle, busy or asleep, and when they join and leave.

A node's day has a part asleep, in which it is reached by nobody, a part busy with things of its
own, which leave it a share of its compute, and a rest. Days are as long for all, and begin for
each at another time, drawn by the seed. Whether somebody takes part is a function of seed and time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mfd_flower.checks import ConfigError

PHASES = 3
"""Purpose of a seed."""


class Routines:
    """States of nodes by number.

    Parameters
    ----------
    day_s : float
        Length of a day in virtual seconds; 0: everybody is idle, always.
    asleep, busy : float
        Shares of a day, together at most 1.
    slower : float
        How many times as long a busy node computes.
    joins, leaves : mapping of int to float
        When a node is there for the first time, and from when on it is no more; seconds.
    nodes, seed : int
    """

    def __init__(
        self,
        day_s: float,
        asleep: float,
        busy: float,
        slower: float,
        joins: Mapping[int, float],
        leaves: Mapping[int, float],
        nodes: int,
        seed: int,
    ) -> None:
        if asleep + busy > 1:
            raise ConfigError("network.options.busy", busy, f"at most {1 - asleep:g} of a day")
        self._day_s, self._asleep, self._busy, self._slower = day_s, asleep, busy, slower
        self._joins, self._leaves = joins, leaves
        self._phases = np.random.default_rng([seed, PHASES]).random(nodes)
        self._moments = sorted({*joins.values(), *leaves.values()})
        self.always = not (day_s or self._moments)
        """Whether everybody is idle, always."""

    def there(self, node: int, at_s: float) -> bool:
        """Tell whether a node takes part: it has joined, has not left, and is awake."""
        if not self._joins.get(node, 0.0) <= at_s < self._leaves.get(node, math.inf):
            return False
        return not self._day_s or self._hour(node, at_s) >= self._asleep

    def slower(self, node: int, at_s: float) -> float:
        """Return how many times as long a node computes as if it had nothing else to do."""
        busy = self._day_s and 0 <= self._hour(node, at_s) - self._asleep < self._busy
        return self._slower if busy else 1.0

    def next_change_s(self, at_s: float) -> float:
        """Return when anybody's state changes next."""
        moments = [moment for moment in self._moments if moment > at_s]
        if self._day_s:
            # A state begins where the share of a node's day passes one of these.
            edges = np.array([0.0, self._asleep, self._asleep + self._busy])[:, None]
            ahead = (edges - at_s / self._day_s - self._phases) % 1.0
            moments.append(at_s + self._day_s * float(ahead[ahead > 1e-12].min(initial=1.0)))
        return min(moments, default=math.inf)

    def _hour(self, node: int, at_s: float) -> float:
        """Return which share of its day is over."""
        return float((at_s / self._day_s + self._phases[node]) % 1.0)
