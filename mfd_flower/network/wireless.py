"""A world of cells: rates from distance, walls, load and interference, while nodes move.

The edge server stands behind all base stations. A message up or down goes over the cell that serves
its node and shares its band with the others under way there, in equal parts; other cells interfere
as far as they are busy. Messages between nodes have a band of their own, and share it with those
near them; those farther away interfere. Places, gains and serving cells change once a step, rates
also with what is under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.config import NetworkConfig
from mfd_flower.network.cell_links import CellLinks
from mfd_flower.network.devices import PROFILES, SITE_SLOPE, Profile, handset_w
from mfd_flower.network.fading import Fading
from mfd_flower.network.places import Places
from mfd_flower.network.street_links import StreetLinks
from mfd_flower.network.wireless_options import (
    WirelessOptions,
    kinds_of,
    mobility_of,
    routines_of,
)
from mfd_flower.network.world import EDGE, Device, Link, Transfer, World

Floats = NDArray[np.float64]


class WirelessWorld(World):
    """Cells over a rectangle, and nodes that move in it."""

    shares = True

    def __init__(
        self,
        config: NetworkConfig,
        nodes: int,
        seed: int,
        options: WirelessOptions,
    ) -> None:
        super().__init__(config, nodes, seed)
        self.options = here = options
        self.patience_s = here.patience_s
        self.places = Places(mobility_of(here, nodes, seed), here.step_s)
        self._fading = Fading(here.fading, here.rician_k_db, here.step_s, seed)
        self.cells = CellLinks(here, self.places, self._fading, nodes, seed)
        self.streets = StreetLinks(here, self.places, self._fading, seed)
        self._index = {name: number for number, name in enumerate(self._addresses)}
        self._kinds = kinds_of(here, nodes, seed)
        self._routines = routines_of(here, nodes, seed)
        self._spent_j = np.zeros(nodes)

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        """Return who is in range, and heard in the mean if nobody else sends."""
        near = self.streets.near(self._index[address], self.places.step(at_s)).tolist()
        if not self._routines.always:
            near = [node for node in near if self._routines.there(node, at_s)]
        return tuple([self._addresses[node] for node in near])

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> Floats:
        """Return the rate of each of all transfers that are under way; 0 where out of reach."""
        found, index = np.zeros(len(transfers)), self._index
        by_link: dict[Link, list[int]] = {}
        for number, each in enumerate(transfers):
            by_link.setdefault(_air_link(each), []).append(number)
        for link, numbers in by_link.items():
            those = [transfers[number] for number in numbers]
            if link == "up":
                found[numbers] = self.cells.up_bps([index[t.source] for t in those], at_s)
            elif link == "down":
                found[numbers] = self.cells.down_bps([index[t.destination] for t in those], at_s)
            elif link == "d2d":
                senders = [index[t.source] for t in those]
                receivers = [index[t.destination] for t in those]
                found[numbers] = self.streets.rates_bps(senders, receivers, at_s)
            else:
                found[numbers] = self._config.backhaul_bps
        ends = ((each.source, each.destination) for each in transfers)
        return found * [all(self.available(end, at_s) for end in pair) for pair in ends]

    def links_bps(self, source: str, destinations: Sequence[str], at_s: float) -> Floats:
        """Return the rates of a node's links to others, of each if it alone is sent over."""
        here = self.available(source, at_s)
        there = [here and self.available(other, at_s) for other in destinations]
        ends = [self._index[other] for other in destinations]
        return self.streets.alone_bps(self._index[source], ends, at_s) * there

    def next_change_s(self, at_s: float) -> float:
        """Return until when places, fading and states hold; for ever where nothing changes."""
        parts = self.places, self._fading, self._routines
        return min(part.next_change_s(at_s) for part in parts)

    def device(self, address: str) -> Device:
        """Return a node's device, or the edge server's."""
        device = self._profile(address).device(self.options.slowed.get(address, 1.0))
        sampling = {"sample_s": self._config.sample_s, "sample_j": self._config.sample_j}
        return replace(device, kind=self._kind(address), **sampling)

    def slower(self, address: str, at_s: float) -> float:
        """Return how many times as long a node computes at a time, busy with things of its own."""
        return 1.0 if address == EDGE else self._routines.slower(self._index[address], at_s)

    def area(self, address: str, at_s: float) -> str:
        """Return the cell that serves a node, or the region of the core network that this is in."""
        if not self.options.areas:
            return ""
        site = self.site_of(address, at_s)
        if self.options.areas == "cell":
            return f"cell-{site}"
        east, north = (self.sites_m[site] // self.options.region_m).astype(int).tolist()
        return f"region-{east}-{north}"

    def places_m(self, at_s: float) -> Floats:
        """Return where nodes are, ``(nodes, 2)`` in metres."""
        return self.places.in_step(self.places.step(at_s))

    @property
    def sites_m(self) -> Floats:
        """Where base stations stand, ``(sites, 2)`` in metres."""
        return self.cells.coverage.sites_m

    def site_of(self, address: str, at_s: float) -> int:
        """Return the base station that serves a node."""
        return int(self.cells.coverage.at(at_s).serving[self._index[address]])

    def available(self, address: str, at_s: float) -> bool:
        """Tell whether a node is there, awake, and has energy left."""
        if address != EDGE and not self._routines.there(self._index[address], at_s):
            return False
        return self.battery_left_j(address) > 0

    def sending_j(self, transfer: Transfer, size_bytes: int, at_s: float, air_s: float) -> float:
        """Return what a sender's transmitter draws.

        A node's does so all the time that it sends; a base station shares its power like its band,
        so that a message takes what it would alone.
        """
        if transfer.source != EDGE:
            return handset_w(self.options.ut_dbm) * air_s
        radiated_w = 10 ** ((self.cells.site_dbm - 30) / 10)
        alone_s = self._alone_s(transfer, size_bytes, at_s, air_s)
        return SITE_SLOPE[self.options.scenario] * radiated_w * alone_s

    def spectrum_hz_s(
        self, transfer: Transfer, size_bytes: int, at_s: float, air_s: float
    ) -> float:
        """Return the bandwidth of a message's link times how long it would have it alone."""
        link = _air_link(transfer)
        if link == "backhaul":
            return 0.0
        band_hz = self.options.d2d_hz if link == "d2d" else self.cells.free_hz(link)
        return band_hz * self._alone_s(transfer, size_bytes, at_s, air_s)

    def _alone_s(self, transfer: Transfer, size_bytes: int, at_s: float, air_s: float) -> float:
        alone_bps = float(self.rates_bps([transfer], at_s)[0])
        return min(8 * size_bytes / alone_bps, air_s) if alone_bps else air_s

    def spend(self, address: str, joules: float, at_s: float) -> None:
        """Take energy out of a node's battery."""
        if address in self._index:
            self._spent_j[self._index[address]] += joules

    def state(self) -> dict[str, Any]:
        """Return what was spent, as a checkpoint keeps it."""
        return {"spent_j": self._spent_j.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._spent_j[:] = state["spent_j"]

    def battery_left_j(self, address: str) -> float:
        """Return what is left of a node's battery, infinite on mains."""
        if address == EDGE:
            return self._profile(address).battery_j
        return self._profile(address).battery_j - float(self._spent_j[self._index[address]])

    def _profile(self, address: str) -> Profile:
        return PROFILES[self._kind(address)]

    def _kind(self, address: str) -> str:
        return self.options.edge if address == EDGE else self._kinds[self._index[address]]


def _air_link(transfer: Transfer) -> Link:
    """Return over which air a message goes: what the edge server sends or gets, over a cell."""
    if transfer.link != "d2d":
        return transfer.link
    return "down" if transfer.source == EDGE else "up" if transfer.destination == EDGE else "d2d"
