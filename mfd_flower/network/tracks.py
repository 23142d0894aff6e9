"""Where nodes are at a moment, if they go straight from point to point.

A track is made leg by leg for all nodes at once, so far as it is asked for. What is drawn for a leg
depends on the seed and its number alone: a place is a function of seed, node and time, in whichever
order times are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Mobility(Protocol):
    """Where all nodes are."""

    def places_m(self, at_s: float) -> Floats:
        """Return places ``(nodes, 2)`` in metres, `at_s` seconds after the start."""


class Legs(NamedTuple):
    """One leg of each node."""

    seconds: Floats
    """``(nodes,)``, each above 0; what it stands still at the end is a leg of its own."""
    ends_m: Floats
    """``(nodes, 2)``."""


class Static:
    """Nobody moves."""

    def __init__(self, places_m: Floats) -> None:
        self._places = places_m

    def places_m(self, at_s: float) -> Floats:
        """Return where the nodes are, always."""
        return self._places


class Tracks:
    """Places on tracks whose legs `next_legs` draws, from their number and where they begin.

    A later time than the last one costs what has changed since; so does an earlier one.
    """

    def __init__(
        self, first: Legs, starts_m: Floats, next_legs: Callable[[int, Floats], Legs]
    ) -> None:
        nodes = len(starts_m)
        self._next = next_legs
        self._corners, self._nodes = 2, np.arange(nodes)
        self._times = np.stack([np.zeros(nodes), first.seconds])
        self._points = np.stack([starts_m, first.ends_m])
        self._under_way = np.zeros(nodes, np.int64)

    def places_m(self, at_s: float) -> Floats:
        """Return places ``(nodes, 2)``."""
        while self._times[self._corners - 1].min(initial=np.inf) < at_s:
            self._extend()
        leg, nodes = self._under_way, self._nodes
        while (over := self._times[leg + 1, nodes] < at_s).any():
            leg[over] += 1
        while (ahead := self._times[leg, nodes] > at_s).any():
            leg[ahead] -= 1
        begun, over_s = self._times[leg, nodes], self._times[leg + 1, nodes]
        share = ((at_s - begun) / (over_s - begun))[:, None]
        start, end = self._points[leg, nodes], self._points[leg + 1, nodes]
        return start + share * (end - start)

    def _extend(self) -> None:
        last = self._corners - 1
        legs = self._next(last, self._points[last])
        if self._corners == len(self._times):  # Twice the room each time: linear in all.
            self._times = np.concatenate([self._times, np.empty_like(self._times)])
            self._points = np.concatenate([self._points, np.empty_like(self._points)])
        self._times[self._corners] = self._times[last] + legs.seconds
        self._points[self._corners] = legs.ends_m
        self._corners += 1
