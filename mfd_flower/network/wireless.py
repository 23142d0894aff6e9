"""A world of cells: rates from distance, walls, load and interference, while nodes move.

The edge server stands behind all base stations. A message up or down goes over the cell that serves
its node and shares its band with the others under way there, in equal parts; other cells interfere
as far as they are busy. Messages between nodes have a band of their own, and share it with those
near them; those farther away interfere. Places, gains and serving cells change once a step, rates
also with what is under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.config import NetworkConfig
from mfd_flower.network.channel import DOWNLINK, UPLINK, noise_dbm, rate_bps, sinr_db
from mfd_flower.network.coverage import Coverage
from mfd_flower.network.devices import PROFILES, SITE_SLOPE, Profile, handset_w
from mfd_flower.network.places import Places
from mfd_flower.network.street_air import StreetAir
from mfd_flower.network.wireless_options import (
    DEFAULT_BS_DBM,
    WirelessOptions,
    mobility_of,
    profiles_of,
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
        self.coverage = Coverage(here, self.places, seed)
        self._index = {name: number for number, name in enumerate(self._addresses)}
        self._profiles = profiles_of(here, nodes, seed)
        self._spent_j = np.zeros(nodes)
        self._heard = lru_cache(maxsize=4096)(self._near)
        self.street = StreetAir(here.carrier_hz, here.d2d_range_m / 2, seed)

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        """Return who is in range, and heard if nobody else sends."""
        return self._heard(self._index[address], self.places.step(at_s))

    def _near(self, node: int, step: int) -> tuple[str, ...]:
        near = self.places.near(node, self.options.d2d_range_m, step)
        if not len(near):
            return ()
        places = self.places.in_step(step)
        received = self.options.ut_dbm + self.street.gains_db(places[near], places[node])
        heard = sinr_db(received, self._noise_dbm("d2d")) >= UPLINK.least_sinr_db
        return tuple(self._addresses[other] for other in near[heard])

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> Floats:
        """Return the rate of each of all transfers that are under way; 0 where out of reach."""
        found = np.zeros(len(transfers))
        for link, rates in (("up", self._up), ("down", self._down), ("d2d", self._d2d)):
            chosen = [n for n, each in enumerate(transfers) if _air_link(each) == link]
            if chosen:
                found[chosen] = rates([transfers[n] for n in chosen], at_s)
        backhaul = [n for n, each in enumerate(transfers) if each.link == "backhaul"]
        found[backhaul] = self._config.backhaul_bps
        return found * [self._alive(t.source) and self._alive(t.destination) for t in transfers]

    def links_bps(self, source: str, destinations: Sequence[str], at_s: float) -> Floats:
        """Return the rates of a node's links to others, of each if it alone is sent over."""
        alive = [self._alive(source) and self._alive(other) for other in destinations]
        return self._rates_of_one(source, destinations, at_s, np.ones(len(destinations))) * alive

    def next_change_s(self, at_s: float) -> float:
        """Return until when places hold; for ever where nobody moves."""
        return self.places.next_change_s(at_s)

    def device(self, address: str) -> Device:
        """Return a node's device, or the edge server's."""
        return self._profile(address).device(self.options.slowed.get(address, 1.0))

    def available(self, address: str, at_s: float) -> bool:
        """Tell whether a node has energy left."""
        return self._alive(address)

    def sending_j(self, transfer: Transfer, size_bytes: int, at_s: float, air_s: float) -> float:
        """Return what a sender's transmitter draws.

        A node's does so all the time that it sends; a base station shares its power like its band,
        so that a message takes what it would alone.
        """
        if transfer.source != EDGE:
            return handset_w(self.options.ut_dbm) * air_s
        alone_bps = float(self.rates_bps([transfer], at_s)[0])
        alone_s = min(8 * size_bytes / alone_bps, air_s) if alone_bps else air_s
        radiated_w = 10 ** ((self._site_dbm - 30) / 10)
        return SITE_SLOPE[self.options.scenario] * radiated_w * alone_s

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

    def _alive(self, address: str) -> bool:
        return self.battery_left_j(address) > 0

    @property
    def _site_dbm(self) -> float:
        return self.options.bs_dbm or DEFAULT_BS_DBM[self.options.scenario]

    def _profile(self, address: str) -> Profile:
        return (
            PROFILES[self.options.edge] if address == EDGE else self._profiles[self._index[address]]
        )

    def _noise_dbm(self, link: Literal["up", "d2d"]) -> float:
        """Return the noise in the band that is free for a link."""
        here = self.options
        if link == "d2d":
            return float(noise_dbm(here.d2d_hz, here.ut_noise_db))
        return float(noise_dbm(self._free_hz, here.bs_noise_db))

    def _up(self, transfers: list[Transfer], at_s: float) -> Floats:
        """Return rates of messages that share a cell's band; each has all of its sender's power.

        Whoever sends in another cell does so in a part of the band: of the k parts of this cell's
        it reaches each with 1/k of its power.
        """
        here, nodes = self.options, [self._index[each.source] for each in transfers]
        gains_db, serving = self.coverage.at(at_s)
        cells, gains = serving[nodes], gains_db[nodes] + here.bs_gain_db
        sharing = self._sharing(cells)
        part_db = 10 * np.log10(sharing)[:, None]
        heard_dbm = here.ut_dbm + gains[:, cells].T  # Of each transfer the others' at its site.
        others = np.where(cells[:, None] == cells, -np.inf, heard_dbm - part_db)
        ratio = sinr_db(heard_dbm.diagonal(), self._noise_dbm("up") - part_db[:, 0], others)
        return rate_bps(self._free_hz / sharing, ratio, UPLINK)

    def _down(self, transfers: list[Transfer], at_s: float) -> Floats:
        """Return rates of messages that share a cell's band and, as evenly, its power."""
        here, nodes = self.options, [self._index[each.destination] for each in transfers]
        gains_db, serving = self.coverage.at(at_s)
        cells, rows = serving[nodes], np.arange(len(nodes))
        heard_dbm = self._site_dbm + here.bs_gain_db + gains_db[nodes]
        busy = np.full(len(self.coverage.sites_m), here.load)
        busy[cells] = 1.0
        with np.errstate(divide="ignore"):
            others = heard_dbm + 10 * np.log10(busy)
        others[rows, cells] = -np.inf
        band = noise_dbm(here.cell_hz, here.ut_noise_db)
        ratio = sinr_db(heard_dbm[rows, cells], band, others)
        return rate_bps(self._free_hz / self._sharing(cells), ratio, DOWNLINK)

    def _sharing(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of these transfers, itself among them, are in each one's cell."""
        return np.bincount(cells, minlength=len(self.coverage.sites_m))[cells]

    @property
    def _free_hz(self) -> float:
        """Band of a cell that nobody else uses."""
        return self.options.cell_hz * (1 - self.options.load)

    def _d2d(self, transfers: list[Transfer], at_s: float) -> Floats:
        """Return rates of messages that share the nodes' band with those near their receiver.

        Base stations see to that (3GPP TS 38.300 v17.0.0, section 16.9, mode 1); senders farther
        away than two nodes reach use the same band, and interfere.
        """
        here = self.options
        # By nodes, not by messages: of those one node may send very many at once.
        if len({each.source for each in transfers}) == 1:
            heard_by = [each.destination for each in transfers]
            return self._rates_of_one(transfers[0].source, heard_by, at_s)
        senders, sender = _numbered([self._index[each.source] for each in transfers])
        receivers, receiver = _numbered([self._index[each.destination] for each in transfers])
        count = np.bincount(sender)
        places = self.places.in_step(self.places.step(at_s))
        ends = places[receivers][:, None], places[senders][None]
        far = np.linalg.norm(ends[0] - ends[1], axis=2)
        heard_dbm = here.ut_dbm + self.street.gains_db(*ends)
        near = far <= 2 * here.d2d_range_m
        sharing = np.maximum((near * count).sum(1), 1)[receiver]
        part_db = 10 * np.log10(sharing)
        distant = np.where(near, -np.inf, heard_dbm + 10 * np.log10(count))
        others = distant[receiver] - part_db[:, None]
        signal = heard_dbm[receiver, sender]
        ratio = sinr_db(signal, self._noise_dbm("d2d") - part_db, others)
        rates = rate_bps(here.d2d_hz / sharing, ratio, UPLINK)
        return np.where(far[receiver, sender] <= here.d2d_range_m, rates, 0.0)

    def _rates_of_one(
        self, source: str, destinations: Sequence[str], at_s: float, sharing: Floats | None = None
    ) -> Floats:
        """Return rates where one node sends all there is, so that nobody interferes.

        Without `sharing`, how many each shares the band with, all is sent at once.
        """
        here, places = self.options, self.places.in_step(self.places.step(at_s))
        source_m = places[self._index[source]]
        ends_m = places[[self._index[other] for other in destinations]]
        far = np.linalg.norm(ends_m - source_m, axis=1)
        if sharing is None:
            sharing = np.where(far <= 2 * here.d2d_range_m, len(destinations), 1)
        noise = self._noise_dbm("d2d") - 10 * np.log10(sharing)
        ratio = here.ut_dbm + self.street.gains_db(ends_m, source_m) - noise
        rates = rate_bps(here.d2d_hz / sharing, ratio, UPLINK)
        return np.where(far <= here.d2d_range_m, rates, 0.0)


def _numbered(of_each: Sequence[int]) -> tuple[list[int], NDArray[np.int64]]:
    """Return the unlike ones, and of each which of them it is; for a few faster than `unique`."""
    places: dict[int, int] = {}
    which = [places.setdefault(each, len(places)) for each in of_each]
    return list(places), np.array(which)


def _air_link(transfer: Transfer) -> Link:
    """Return over which air a message goes: what the edge server sends or gets, over a cell."""
    if transfer.link != "d2d":
        return transfer.link
    return "down" if transfer.source == EDGE else "up" if transfer.destination == EDGE else "d2d"
