"""Where nodes are, a step of time at a time, and who is near whom then."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from mfd_flower.checks import ConfigError
from mfd_flower.network.tracks import Floats, Mobility, Static

KEPT_STEPS = 64
"""Whose places are kept: a run asks for times near each other."""
MOST_STEPS = 1_000_000


class Places:
    """Places that hold for `step_s` seconds; for ever where nobody moves."""

    def __init__(self, mobility: Mobility, step_s: float) -> None:
        self._mobility, self._step_s = mobility, step_s
        self._places: OrderedDict[int, Floats] = OrderedDict()
        self._trees: dict[int, KDTree] = {}

    def step(self, at_s: float) -> int:
        """Return the number of the step at a time."""
        step = 0 if isinstance(self._mobility, Static) else int(at_s / self._step_s)
        if step > MOST_STEPS:
            said = f"{MOST_STEPS} steps in all"
            raise ConfigError("network.options.step_s", self._step_s, said)
        return step

    def next_change_s(self, at_s: float) -> float:
        """Return when the step at a time ends."""
        still = isinstance(self._mobility, Static)
        return math.inf if still else (self.step(at_s) + 1) * self._step_s

    def in_step(self, step: int) -> Floats:
        """Return all places in a step, ``(nodes, 2)`` in metres."""
        if step not in self._places:
            self._places[step] = self._mobility.places_m(step * self._step_s)
            while len(self._places) > KEPT_STEPS:
                self._trees.pop(self._places.popitem(last=False)[0], None)
        return self._places[step]

    def near(self, node: int, range_m: float, step: int) -> NDArray[np.int64]:
        """Return who is at most so far from a node, itself among them, ascending."""
        places = self.in_step(step)
        if step not in self._trees:
            self._trees[step] = KDTree(places)
        return np.array(sorted(self._trees[step].query_ball_point(places[node], range_m)))
