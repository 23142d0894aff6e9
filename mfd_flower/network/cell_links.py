"""Rates up and down of nodes whose messages share the bands of the cells that serve them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mfd_flower.network.channel import DOWNLINK, UPLINK, noise_dbm, rate_bps, sinr_db
from mfd_flower.network.coverage import Coverage
from mfd_flower.network.fading import Fading
from mfd_flower.network.places import Places
from mfd_flower.network.tracks import Floats
from mfd_flower.network.wireless_options import DEFAULT_BS_DBM, WirelessOptions
from mfd_flower.network.world import Link


class CellLinks:
    """Links between nodes, by number, and the base stations that serve them."""

    def __init__(
        self, options: WirelessOptions, places: Places, fading: Fading, nodes: int, seed: int
    ) -> None:
        self._options, self._fading, self._nodes = options, fading, nodes
        self.coverage = Coverage(options, places, seed)

    @property
    def site_dbm(self) -> float:
        """Power of a base station."""
        return self._options.bs_dbm or DEFAULT_BS_DBM[self._options.scenario]

    def up_bps(self, nodes: Sequence[int], at_s: float) -> Floats:
        """Return rates of messages from nodes; each has all of its sender's power.

        Whoever sends in another cell does so in a part of the band: of the k parts of this cell's
        it reaches each with 1/k of its power.
        """
        here, gains, cells = self._options, *self._received_db(nodes, at_s)
        sharing = self._sharing(cells)
        part_db = 10 * np.log10(sharing)[:, None]
        heard_dbm = here.ut_dbm + gains[:, cells].T  # Of each message the others' at its site.
        others = np.where(cells[:, None] == cells, -np.inf, heard_dbm - part_db)
        noise = noise_dbm(self.free_hz("up"), here.bs_noise_db)
        ratio = sinr_db(heard_dbm.diagonal(), noise - part_db[:, 0], others)
        return rate_bps(self.free_hz("up") / sharing, ratio, UPLINK)

    def down_bps(self, nodes: Sequence[int], at_s: float) -> Floats:
        """Return rates of messages to nodes, which share a cell's band and its power evenly."""
        here, gains, cells = self._options, *self._received_db(nodes, at_s)
        heard_dbm, rows = self.site_dbm + gains, np.arange(len(nodes))
        busy = np.full(len(self.coverage.sites_m), here.load)
        busy[cells] = 1.0
        with np.errstate(divide="ignore"):
            others = heard_dbm + 10 * np.log10(busy)
        others[rows, cells] = -np.inf
        band = noise_dbm(here.cell_hz, here.ut_noise_db)
        ratio = sinr_db(heard_dbm[rows, cells], band, others)
        return rate_bps(self.free_hz("down") / self._sharing(cells), ratio, DOWNLINK)

    def _received_db(self, nodes: Sequence[int], at_s: float) -> tuple[Floats, NDArray[np.int64]]:
        """Return gains of nodes, ``(nodes, sites)``, antennas and fading in it, and their sites."""
        gains_db, serving = self.coverage.at(at_s)
        sites = self._nodes + np.arange(gains_db.shape[1])
        fading = self._fading.gains_db(at_s, np.array(nodes)[:, None], sites)
        return gains_db[nodes] + self._options.bs_gain_db + fading, serving[nodes]

    def _sharing(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of these messages, itself among them, are in each one's cell."""
        return np.bincount(cells, minlength=len(self.coverage.sites_m))[cells]

    def free_hz(self, link: Link) -> float:
        """Return the band of a cell, up or down, that nobody else uses."""
        here = self._options
        band_hz = here.up_hz if link == "up" and here.up_hz else here.cell_hz
        return band_hz * (1 - here.load)
