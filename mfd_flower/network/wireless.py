"""A world of cells: rates from distance, walls, load and interference, while nodes move.

The edge server stands behind all base stations. A message up or down goes over the cell that serves
its node and shares its band with the others under way there, in equal parts; other cells interfere
as far as they are busy. A message between nodes uses a band of its own, all of it, and so do the
others under way: they interfere. Places, gains and serving cells change once a step, rates also
with what is under way.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mfd_flower.checks import Bounds, ConfigError, bounded, check_fields
from mfd_flower.config import NetworkConfig
from mfd_flower.network.cells import Cells, Serving, lattice_m
from mfd_flower.network.channel import DOWNLINK, UPLINK, noise_dbm, rate_bps, sinr_db
from mfd_flower.network.devices import PROFILES, Profile
from mfd_flower.network.fields import Field
from mfd_flower.network.mobility import GaussMarkov, Speeds, Waypoint
from mfd_flower.network.path_loss import CellScenario, street_loss_db, street_sight_probability
from mfd_flower.network.streets import Manhattan
from mfd_flower.network.tr37885 import SHADOWING_DB, SHADOWING_M
from mfd_flower.network.traces import Trace
from mfd_flower.network.tracks import Mobility, Static
from mfd_flower.network.world import EDGE, Device, Transfer, World

Floats = NDArray[np.float64]
PLACES, STREETS, DEVICES = 0, 1, 2
"""Purposes of seeds."""
KEPT_STEPS = 64
"""Whose places and gains are kept: a run asks for times near each other."""
MOST_STEPS = 1_000_000
DEFAULT_H_BS_M = {"umi": 10.0, "uma": 25.0, "rma": 35.0, "inh": 3.0}
"""3GPP TR 38.901 v17.0.0, table 7.4.1-1, and table 7.2-2 for indoors."""
DEFAULT_SITES_M = {"umi": 200.0, "uma": 500.0, "rma": 1732.0, "inh": 20.0}
"""Between sites: the same report, tables 7.2-1 to 7.2-3."""
DEFAULT_BS_DBM = {"umi": 44.0, "uma": 46.0, "rma": 46.0, "inh": 24.0}
"""In 20 MHz: 3GPP TR 38.802 v14.2.0, tables A.2.1-1."""


@dataclass(frozen=True)
class WirelessOptions:
    """What a wireless world is like."""

    scenario: CellScenario = "umi"
    """Of 3GPP TR 38.901: street canyon, urban macro, rural macro, indoor hotspot."""
    width_m: float = bounded(600.0, 1.0)
    height_m: float = bounded(600.0, 1.0)
    site_distance_m: float = bounded(0.0, 0.0)
    """Between base stations; 0 is the report's distance for the scenario."""
    carrier_hz: float = bounded(3.5e9, 0.5e9, 100e9)
    cell_hz: float = bounded(20e6, 0.0, open_low=True)
    """Band of a cell, once for up and once for down."""
    d2d_hz: float = bounded(10e6, 0.0, open_low=True)
    """Band of the messages between nodes."""
    bs_dbm: float = bounded(0.0, 0.0, 60.0)
    """Power of a base station; 0 is the usual one of the scenario."""
    ut_dbm: float = bounded(23.0, -40.0, 33.0)
    """Power of a node: power class 3, 3GPP TS 38.101-1 v17.5.0, table 6.2.1-1."""
    load: float = bounded(0.0, 0.0, 0.95)
    """Share of every cell's band that others use, all the time."""
    bs_gain_db: float = bounded(8.0, 0.0)
    """Of the antenna: 8 dBi, ITU-R M.2412-0, table 9."""
    bs_noise_db: float = bounded(5.0, 0.0)
    """Noise figures: 5 dB and 7 dB, ITU-R M.2412-0, table 5."""
    ut_noise_db: float = bounded(7.0, 0.0)
    d2d_range_m: float = bounded(100.0, 1.0)
    """Beyond it two nodes do not find each other."""
    hysteresis_db: float = bounded(3.0, 0.0)
    """By how much another cell has to be stronger before it takes over."""
    trigger_s: float = bounded(1.0, 0.0)
    """And for how long."""
    mobility: str = "static"
    """`static`, `waypoint`, `gauss-markov`, `manhattan`, or `trace:<csv>`."""
    low_m_per_s: float = bounded(0.8, 0.0, open_low=True)
    """Range of speeds (`waypoint`, `manhattan`); `gauss-markov` takes the higher as the spread."""
    high_m_per_s: float = bounded(1.4, 0.0, open_low=True)
    pause_s: float = bounded(0.0, 0.0)
    """Longest pause at a place (`waypoint`)."""
    step_s: float = bounded(1.0, 0.01)
    """How long places and gains hold."""
    devices: tuple[str, ...] = ("phone-high", "phone-mid", "phone-low")
    """Kinds of nodes, dealt out in equal numbers; see `mfd_flower.network.devices.PROFILES`."""
    edge: str = "edge-server"
    slowed: Mapping[str, Annotated[float, Bounds(1.0)]] = field(default_factory=dict)
    """Nodes whose device takes so many times as long: ``{ n3 = 10.0 }``."""

    def __post_init__(self) -> None:
        check_fields(WirelessOptions, self, ConfigError)


class _Moment(NamedTuple):
    """What holds for a step."""

    places_m: Floats
    gains_db: Floats
    """``(nodes, sites)``."""
    serving: NDArray[np.int64]


class WirelessWorld(World):
    """Cells over a rectangle, and nodes that move in it."""

    def __init__(
        self,
        config: NetworkConfig,
        nodes: int,
        seed: int = 0,
        options: WirelessOptions = WirelessOptions(),
    ) -> None:
        super().__init__(config, nodes, seed)
        self.options = here = options
        distance_m = here.site_distance_m or DEFAULT_SITES_M[here.scenario]
        sites_m = lattice_m(here.width_m, here.height_m, distance_m)
        h_bs, h_ut = DEFAULT_H_BS_M[here.scenario], 1.5
        self.cells = Cells(here.scenario, sites_m, here.carrier_hz, h_bs, h_ut, seed)
        self.mobility = _mobility(here, nodes, seed)
        self._index = {name: number for number, name in enumerate(self._addresses)}
        self._profiles = _dealt(here, nodes, seed)
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
            chosen = [n for n, each in enumerate(transfers) if each.link == link]
            if chosen:
                found[chosen] = rates([transfers[n] for n in chosen], moment)
        backhaul = [n for n, each in enumerate(transfers) if each.link == "backhaul"]
        found[backhaul] = self._config.backhaul_bps
        return found

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
        return self.battery_left_j(address) > 0

    def spend(self, address: str, joules: float, at_s: float) -> None:
        """Take energy out of a node's battery."""
        if address in self._index:
            self._spent_j[self._index[address]] += joules

    def battery_left_j(self, address: str) -> float:
        """Return what is left of a node's battery, infinite on mains."""
        if address == EDGE:
            return self._profile(address).battery_j
        return self._profile(address).battery_j - float(self._spent_j[self._index[address]])

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
            raise ConfigError("step_s", self.options.step_s, f"{MOST_STEPS} steps in all")
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
        power = here.bs_dbm or DEFAULT_BS_DBM[here.scenario]
        heard_dbm = power + here.bs_gain_db + moment.gains_db[nodes]
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
        here = self.options
        senders = moment.places_m[[self._index[each.source] for each in transfers]]
        receivers = moment.places_m[[self._index[each.destination] for each in transfers]]
        heard_dbm = here.ut_dbm + self._street_gains_db(senders[None], receivers[:, None])
        own = np.eye(len(transfers), dtype=bool)
        others = np.where(own, -np.inf, heard_dbm)
        ratio = sinr_db(heard_dbm.diagonal(), self._noise_dbm("d2d"), others)
        far = np.linalg.norm(senders - receivers, axis=1)
        return np.where(far <= here.d2d_range_m, rate_bps(here.d2d_hz, ratio, UPLINK), 0.0)

    def _street_gains_db(self, ones_m: Floats, others_m: Floats) -> Floats:
        """Return gains between nodes, the same both ways: fields are asked at the middle."""
        far = np.clip(np.linalg.norm(ones_m - others_m, axis=-1), 1.0, 10_000.0)
        middle = (ones_m + others_m) / 2
        sees = ndtr(self._street[0].at(middle)) < street_sight_probability("urban", far)
        spread = np.where(sees, *SHADOWING_DB)
        lost = street_loss_db("urban", far, self.options.carrier_hz, sees)
        return -lost - spread * self._street[1].at(middle)


def _dealt(options: WirelessOptions, nodes: int, seed: int) -> list[Profile]:
    for name in (*options.devices, options.edge):
        if name not in PROFILES:
            raise ConfigError("devices", name, f"accepted: {', '.join(PROFILES)}")
    if not options.devices:
        raise ConfigError("devices", [], f"one or more of {', '.join(PROFILES)}")
    kinds = [options.devices[node % len(options.devices)] for node in range(nodes)]
    np.random.default_rng([seed, DEVICES]).shuffle(kinds)
    return [PROFILES[kind] for kind in kinds]


def _mobility(options: WirelessOptions, nodes: int, seed: int) -> Mobility:
    wide, high = options.width_m, options.height_m
    kind, _, path = options.mobility.partition(":")
    if kind == "trace":
        return Trace.load(Path(path), nodes)
    if kind == "static":
        rng = np.random.default_rng([seed, PLACES])
        return Static(rng.random((nodes, 2)) * [wide, high])
    speeds = Speeds(options.low_m_per_s, options.high_m_per_s)
    if kind == "waypoint":
        return Waypoint(wide, high, speeds, options.pause_s).tracks(nodes, seed)
    if kind == "gauss-markov":
        return GaussMarkov(wide, high, options.high_m_per_s).tracks(nodes, seed)
    if kind == "manhattan":
        block_m = 100.0
        blocks = max(1, int(wide / block_m)), max(1, int(high / block_m))
        return Manhattan(*blocks, block_m, speeds).tracks(nodes, seed)
    accepted = "static, waypoint, gauss-markov, manhattan, trace:<csv>"
    raise ConfigError("mobility", options.mobility, f"accepted: {accepted}")
