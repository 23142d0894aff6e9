"""What each node gets of each base station, and which one serves it, as nodes move.

Who serves follows from all steps before. Gains of all nodes to all sites are the dear part of a
world of cells, so nothing is worked out before somebody sends up or down.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfd_flower.network.cells import Cells, Serving, lattice_m
from mfd_flower.network.places import KEPT_STEPS, Places
from mfd_flower.network.tracks import Floats
from mfd_flower.network.wireless_options import DEFAULT_H_BS_M, DEFAULT_SITES_M, WirelessOptions

H_UT_M = 1.5


class Reception(NamedTuple):
    """What holds for a step."""

    gains_db: Floats
    """``(nodes, sites)``."""
    serving: NDArray[np.int64]
    """Site of each node."""


class Coverage:
    """Gains and serving sites of a run's nodes, by time."""

    def __init__(self, options: WirelessOptions, places: Places, seed: int) -> None:
        self._options, self._places, self._seed = options, places, seed
        distance_m = options.site_distance_m or DEFAULT_SITES_M[options.scenario]
        self.sites_m = lattice_m(options.width_m, options.height_m, distance_m)
        self._kept: OrderedDict[int, Reception] = OrderedDict()
        self._serving: list[NDArray[np.int64]] = []
        self._handover: Serving | None = None

    @cached_property
    def _cells(self) -> Cells:
        here, h_bs_m = self._options, DEFAULT_H_BS_M[self._options.scenario]
        return Cells(here.scenario, self.sites_m, here.carrier_hz, h_bs_m, H_UT_M, self._seed)

    def at(self, at_s: float) -> Reception:
        """Return what holds at a time."""
        step = self._places.step(at_s)
        for number in range(len(self._serving), step + 1):
            self._advance(number)
        if step not in self._kept:
            self._keep(step, self._gains_db(step))
        return self._kept[step]

    def _gains_db(self, step: int) -> Floats:
        return self._cells.gains_db(self._places.in_step(step))

    def _advance(self, step: int) -> None:
        gains = self._gains_db(step)
        if self._handover is None:
            trigger = math.ceil(self._options.trigger_s / self._options.step_s)
            self._handover = Serving(gains, self._options.hysteresis_db, max(trigger, 1))
            self._serving.append(self._handover.sites)
        else:
            self._serving.append(self._handover.step(gains))
        self._keep(step, gains)

    def _keep(self, step: int, gains_db: Floats) -> None:
        self._kept[step] = Reception(gains_db, self._serving[step])
        while len(self._kept) > KEPT_STEPS:
            self._kept.popitem(last=False)
