"""A world of cells: rates from distance, walls, load and interference, while nodes move.

The edge server stands behind all base stations. A message up or down goes over the cell that serves
its node and shares its band with the others under way there, in equal parts; other cells interfere
as far as they are busy. Messages between nodes have a band of their own, and share it with those
near them; those farther away interfere. Places, gains and serving cells change once a step, rates
also with what is under way.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network.cells import Cells, Serving, lattice_m
from mfd_flower.network.channel import DOWNLINK, UPLINK, noise_dbm, rate_bps, sinr_db
from mfd_flower.network.devices import PROFILES, SITE_SLOPE, Profile, handset_w
from mfd_flower.network.fields import Field
from mfd_flower.network.path_loss import street_loss_db, street_sight_probability
from mfd_flower.network.tr37885 import SHADOWING_DB, SHADOWING_M
from mfd_flower.network.tracks import Static
from mfd_flower.network.wireless_options import (
    DEFAULT_BS_DBM,
    DEFAULT_H_BS_M,
    DEFAULT_SITES_M,
    WirelessOptions,
    mobility_of,
    profiles_of,
)
from mfd_flower.network.world import EDGE, Device, Link, Transfer, World

Floats = NDArray[np.float64]
STREETS = 1
"""Purpose of a seed."""
KEPT_STEPS = 64
"""Whose places and gains are kept: a run asks for times near each other."""
MOST_STEPS = 1_000_000


class _Moment(NamedTuple):
    """What holds for a step."""

    places_m: Floats
    gains_db: Floats
    """``(nodes, sites)``."""
    serving: NDArray[np.int64]


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
        distance_m = here.site_distance_m or DEFAULT_SITES_M[here.scenario]
        sites_m = lattice_m(here.width_m, here.height_m, distance_m)
        h_bs, h_ut = DEFAULT_H_BS_M[here.scenario], 1.5
        self.cells = Cells(here.scenario, sites_m, here.carrier_hz, h_bs, h_ut, seed)
        self.mobility = mobility_of(here, nodes, seed)
        self._index = {name: number for number, name in enumerate(self._addresses)}
        self._profiles = profiles_of(here, nodes, seed)
        self._spent_j = np.zeros(nodes)
        self._street = [
            Field(length, (seed, STREETS, number))
            for number, length in enumerate((here.d2d_range_m / 2, SHADOWING_M["urban"]))
        ]
        self._moments: OrderedDict[int, _Moment] = OrderedDict()
        self._serving: list[NDArray[np.int64]] = []
        self._handover: Serving | None = None

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        """Return who is in range, and heard if nobody else sends."""
        own = self._index[address]
        places = self._moment(at_s).places_m
        far = np.linalg.norm(places - places[own], axis=1)
        near = np.flatnonzero(far <= self.options.d2d_range_m)
        near = near[near != own]
        if not len(near):
            return ()
        received = self.options.ut_dbm + self._street_gains_db(places[near], places[own])
        heard = sinr_db(received, self._noise_dbm("d2d")) >= UPLINK.least_sinr_db
        return tuple(self._addresses[node] for node in near[heard])

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> Floats:
        """Return the rate of each of all transfers that are under way; 0 where out of reach."""
        moment, found = self._moment(at_s), np.zeros(len(transfers))
        for link, rates in (("up", self._up), ("down", self._down), ("d2d", self._d2d)):
            chosen = [n for n, each in enumerate(transfers) if _air_link(each) == link]
            if chosen:
                found[chosen] = rates([transfers[n] for n in chosen], moment)
        backhaul = [n for n, each in enumerate(transfers) if each.link == "backhaul"]
        found[backhaul] = self._config.backhaul_bps
        return found * [self._alive(t.source) and self._alive(t.destination) for t in transfers]

    def next_change_s(self, at_s: float) -> float:
        """Return until when places hold; for ever where nobody moves."""
        if isinstance(self.mobility, Static):
            return math.inf
        return (self._step(at_s) + 1) * self.options.step_s

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

    def _step(self, at_s: float) -> int:
        return int(at_s / self.options.step_s)

    def _moment(self, at_s: float) -> _Moment:
        """Return what holds at a time; who serves whom follows from all steps before."""
        step = 0 if isinstance(self.mobility, Static) else self._step(at_s)
        if step > MOST_STEPS:
            raise ConfigError(
                "network.options.step_s", self.options.step_s, f"{MOST_STEPS} steps in all"
            )
        if step not in self._moments:
            for number in range(len(self._serving), step + 1):
                self._advance(number)
            if step not in self._moments:
                places = self.mobility.places_m(step * self.options.step_s)
                gains = self.cells.gains_db(places)
                self._moments[step] = _Moment(places, gains, self._serving[step])
            while len(self._moments) > KEPT_STEPS:
                self._moments.popitem(last=False)
        return self._moments[step]

    def _advance(self, step: int) -> None:
        places = self.mobility.places_m(step * self.options.step_s)
        gains = self.cells.gains_db(places)
        if self._handover is None:
            trigger = math.ceil(self.options.trigger_s / self.options.step_s)
            self._handover = Serving(gains, self.options.hysteresis_db, max(trigger, 1))
            serving = self._handover.sites
        else:
            serving = self._handover.step(gains)
        self._serving.append(serving)
        self._moments[step] = _Moment(places, gains, serving)

    def _noise_dbm(self, link: Literal["up", "d2d"]) -> float:
        """Return the noise in the band that is free for a link."""
        here = self.options
        if link == "d2d":
            return float(noise_dbm(here.d2d_hz, here.ut_noise_db))
        return float(noise_dbm(self._free_hz, here.bs_noise_db))

    def _up(self, transfers: list[Transfer], moment: _Moment) -> Floats:
        """Return rates of messages that share a cell's band; each has all of its sender's power.

        Whoever sends in another cell does so in a part of the band: of the k parts of this cell's
        it reaches each with 1/k of its power.
        """
        here, nodes = self.options, [self._index[each.source] for each in transfers]
        cells, gains = moment.serving[nodes], moment.gains_db[nodes] + here.bs_gain_db
        sharing = self._sharing(cells)
        part_db = 10 * np.log10(sharing)[:, None]
        heard_dbm = here.ut_dbm + gains[:, cells].T  # Of each transfer the others' at its site.
        others = np.where(cells[:, None] == cells, -np.inf, heard_dbm - part_db)
        ratio = sinr_db(heard_dbm.diagonal(), self._noise_dbm("up") - part_db[:, 0], others)
        return rate_bps(self._free_hz / sharing, ratio, UPLINK)

    def _down(self, transfers: list[Transfer], moment: _Moment) -> Floats:
        """Return rates of messages that share a cell's band and, as evenly, its power."""
        here, nodes = self.options, [self._index[each.destination] for each in transfers]
        cells, rows = moment.serving[nodes], np.arange(len(nodes))
        heard_dbm = self._site_dbm + here.bs_gain_db + moment.gains_db[nodes]
        busy = np.full(len(self.cells.sites_m), here.load)
        busy[cells] = 1.0
        with np.errstate(divide="ignore"):
            others = heard_dbm + 10 * np.log10(busy)
        others[rows, cells] = -np.inf
        band = noise_dbm(here.cell_hz, here.ut_noise_db)
        ratio = sinr_db(heard_dbm[rows, cells], band, others)
        return rate_bps(self._free_hz / self._sharing(cells), ratio, DOWNLINK)

    def _sharing(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of these transfers, itself among them, are in each one's cell."""
        return np.bincount(cells, minlength=len(self.cells.sites_m))[cells]

    @property
    def _free_hz(self) -> float:
        """Band of a cell that nobody else uses."""
        return self.options.cell_hz * (1 - self.options.load)

    def _d2d(self, transfers: list[Transfer], moment: _Moment) -> Floats:
        """Return rates of messages that share the nodes' band with those near their receiver.

        Base stations see to that (3GPP TS 38.300 v17.0.0, section 16.9, mode 1); senders farther
        away than two nodes reach use the same band, and interfere.
        """
        here = self.options
        # By nodes, not by messages: of those one node may send very many at once.
        senders, sender, count = np.unique(
            [self._index[t.source] for t in transfers], return_inverse=True, return_counts=True
        )
        receivers, receiver = np.unique(
            [self._index[t.destination] for t in transfers], return_inverse=True
        )
        ends = moment.places_m[receivers][:, None], moment.places_m[senders][None]
        far = np.linalg.norm(ends[0] - ends[1], axis=2)
        heard_dbm = here.ut_dbm + self._street_gains_db(*ends)
        near = far <= 2 * here.d2d_range_m
        sharing = np.maximum((near * count).sum(1), 1)[receiver]
        part_db = 10 * np.log10(sharing)
        distant = np.where(near, -np.inf, heard_dbm + 10 * np.log10(count))
        others = distant[receiver] - part_db[:, None]
        signal = heard_dbm[receiver, sender]
        ratio = sinr_db(signal, self._noise_dbm("d2d") - part_db, others)
        rates = rate_bps(here.d2d_hz / sharing, ratio, UPLINK)
        return np.where(far[receiver, sender] <= here.d2d_range_m, rates, 0.0)

    def _street_gains_db(self, ones_m: Floats, others_m: Floats) -> Floats:
        """Return gains between nodes, the same both ways: fields are asked at the middle."""
        far = np.clip(np.linalg.norm(ones_m - others_m, axis=-1), 1.0, 10_000.0)
        middle = (ones_m + others_m) / 2
        sees = ndtr(self._street[0].at(middle)) < street_sight_probability("urban", far)
        spread = np.where(sees, *SHADOWING_DB)
        lost = street_loss_db("urban", far, self.options.carrier_hz, sees)
        return -lost - spread * self._street[1].at(middle)


def _air_link(transfer: Transfer) -> Link:
    """Return over which air a message goes: what the edge server sends or gets, over a cell."""
    if transfer.link != "d2d":
        return transfer.link
    return "down" if transfer.source == EDGE else "up" if transfer.destination == EDGE else "d2d"
