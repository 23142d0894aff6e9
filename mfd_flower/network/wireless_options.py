"""What a wireless world is like: its cells, who is in it, how they move, what they compute with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from mfd_flower.checks import Bounds, ConfigError, bounded, check_fields
from mfd_flower.network.devices import PROFILES
from mfd_flower.network.mobility import GaussMarkov, Speeds, Waypoint
from mfd_flower.network.path_loss import CellScenario
from mfd_flower.network.routines import Routines
from mfd_flower.network.streets import Manhattan
from mfd_flower.network.traces import Trace
from mfd_flower.network.tracks import Mobility, Static

PLACES, DEVICES = 0, 2
"""Purposes of seeds."""
BLOCK_M = 100.0
"""Side of a block of houses (`manhattan`)."""
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
    """Band of a cell for messages down, and if `up_hz` says nothing else as much again for up."""
    up_hz: float = bounded(0.0, 0.0)
    """Band of a cell for messages up; 0 is `cell_hz`."""
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
    fading: Literal["none", "rayleigh", "rician"] = "none"
    """Of the power of every link, drawn anew in each step: without a dominant path, or with one."""
    rician_k_db: float = bounded(9.0, -30.0, 60.0)
    """By how much that path is stronger than all others together."""
    d2d_range_m: float = bounded(100.0, 1.0)
    """Beyond it two nodes do not find each other."""
    hysteresis_db: float = bounded(3.0, 0.0)
    """By how much another cell has to be stronger before it takes over."""
    trigger_s: float = bounded(1.0, 0.0)
    """And for how long."""
    areas: Literal["", "cell", "region"] = ""
    """What a collaboration set is the members of: all, those that a base station serves, or those
    whose base stations stand in a square of `region_m`, a region of the core network."""
    region_m: float = bounded(500.0, 1.0)
    mobility: str = "static"
    """`static`, `waypoint`, `gauss-markov`, `manhattan`, or `trace:<csv>`."""
    low_m_per_s: float = bounded(0.8, 0.0, open_low=True)
    """Range of speeds (`waypoint`, `manhattan`); `gauss-markov` takes the higher as the spread."""
    high_m_per_s: float = bounded(1.4, 0.0, open_low=True)
    pause_s: float = bounded(0.0, 0.0)
    """Longest pause at a place (`waypoint`)."""
    patience_s: float = bounded(5.0, 0.0)
    """How long a sender that is not heard tries, before it gives its message up."""
    step_s: float = bounded(1.0, 0.01)
    """How long places and gains hold."""
    devices: tuple[str, ...] = ("phone-high", "phone-mid", "phone-low")
    """Kinds of nodes, dealt out in equal numbers; see `mfd_flower.network.devices.PROFILES`."""
    edge: str = "edge-server"
    day_s: float = bounded(0.0, 0.0)
    """Length of a node's day; 0: all are idle, always. Each day begins at another time."""
    asleep: float = bounded(0.3, 0.0, 1.0)
    """Share of a day in which a node is reached by nobody."""
    busy: float = bounded(0.3, 0.0, 1.0)
    """Share of a day in which it computes for others `busy_slower` times as long."""
    busy_slower: float = bounded(4.0, 1.0)
    joins: Mapping[str, Annotated[float, Bounds(0.0)]] = field(default_factory=dict)
    """When nodes come that are not there from the start: ``{ n3 = 60.0 }``."""
    leaves: Mapping[str, Annotated[float, Bounds(0.0)]] = field(default_factory=dict)
    """When nodes go for good."""
    slowed: Mapping[str, Annotated[float, Bounds(1.0)]] = field(default_factory=dict)
    """Nodes whose device takes so many times as long: ``{ n3 = 10.0 }``."""

    def __post_init__(self) -> None:
        check_fields(WirelessOptions, self, ConfigError)


def kinds_of(options: WirelessOptions, nodes: int, seed: int) -> list[str]:
    """Return which kind of device each node is, dealt out in another order for each seed."""
    for name in (*options.devices, options.edge):
        if name not in PROFILES:
            raise ConfigError("network.options.devices", name, f"accepted: {', '.join(PROFILES)}")
    if not options.devices:
        raise ConfigError("network.options.devices", [], f"one or more of {', '.join(PROFILES)}")
    for name in options.slowed:
        _number(name, nodes)
    kinds = [options.devices[node % len(options.devices)] for node in range(nodes)]
    np.random.default_rng([seed, DEVICES]).shuffle(kinds)
    return kinds


def routines_of(options: WirelessOptions, nodes: int, seed: int) -> Routines:
    """Return when which node takes part."""
    here = options
    joins, leaves = (
        {_number(k, nodes): v for k, v in m.items()} for m in (here.joins, here.leaves)
    )
    day = here.day_s, here.asleep, here.busy, here.busy_slower
    return Routines(*day, joins, leaves, nodes, seed)


def _number(address: str, nodes: int) -> int:
    number = address.removeprefix("n")
    if not number.isdecimal() or int(number) >= nodes or address != f"n{int(number)}":
        raise ConfigError("network.options", address, f"accepted: n0 to n{nodes - 1}")
    return int(number)


def mobility_of(options: WirelessOptions, nodes: int, seed: int) -> Mobility:
    """Return where the nodes are at which time."""
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
        blocks = max(1, int(wide / BLOCK_M)), max(1, int(high / BLOCK_M))
        return Manhattan(*blocks, BLOCK_M, speeds).tracks(nodes, seed)
    accepted = "static, waypoint, gauss-markov, manhattan, trace:<csv>"
    raise ConfigError("network.options.mobility", options.mobility, f"accepted: {accepted}")
