"""The world that a run lives in: who reaches whom, at which rate, with what device, at which time.

Everything that turns counted bytes and FLOPs into seconds and joules is asked of one `World`. It is
a pure function of the settings, the seed, virtual time and what was spent; wall time never shows.
A node is shown its own part of it only, as a `View`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network.topology import neighbours_of

EDGE = "edge"
"""Address of the edge server, which runs Flower's ServerApp."""
Link = Literal["up", "down", "d2d", "backhaul"]


class Transfer(NamedTuple):
    """One message under way."""

    source: str
    destination: str
    link: Link


@dataclass(frozen=True)
class Device:
    """What a node computes and sends with."""

    flops_per_s: float
    joules_per_flop: float
    joules_per_bit: float
    """Of what it sends."""
    memory_bytes: float = math.inf


class World(Protocol):
    """Answers for all nodes; times are virtual seconds from the start of the run."""

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        """Return the addresses that one ``d2d`` link reaches."""

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        """Return the rate of each of all transfers that are under way; 0 where out of reach."""

    def next_change_s(self, at_s: float) -> float:
        """Return until when the rates of `at_s` hold; infinite if they never change."""

    def latency_s(self, source: str, destination: str, at_s: float) -> float:
        """Return how long the first bit of a message takes."""

    def device(self, address: str) -> Device:
        """Return a node's device, or the edge server's."""

    def available(self, address: str, at_s: float) -> bool:
        """Tell whether a node takes part now: switched on, in reach, awake."""

    def spend(self, address: str, joules: float, at_s: float) -> None:
        """Take energy out of a node's battery."""

    def seen_by(self, address: str, at_s: float) -> View:
        """Return what one node can know."""


class View:
    """A world as one node sees it at one moment: its own links and its own device.

    Parameters
    ----------
    world : World
        Asked about this node alone.
    address : str
        The node.
    at_s : float
        Virtual time.
    """

    def __init__(self, world: World, address: str, at_s: float = 0.0) -> None:
        self._world = world
        self.address = address
        self.at_s = at_s

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Addresses that one link reaches."""
        return self._world.neighbours(self.address, self.at_s)

    @property
    def device(self) -> Device:
        """The node's own device."""
        return self._world.device(self.address)

    def rate_to_bps(self, peer: str) -> float:
        """Return the rate of this node's link to a neighbour, or up to the edge server."""
        return self._rate_bps(self.address, peer)

    def rate_from_bps(self, peer: str) -> float:
        """Return the rate of the link from a neighbour, or down from the edge server."""
        return self._rate_bps(peer, self.address)

    def latency_s(self, peer: str) -> float:
        """Return the latency of a message to a neighbour or to the edge server."""
        return self._world.latency_s(self.address, peer, self.at_s)

    def _rate_bps(self, source: str, destination: str) -> float:
        link: Link = "up" if destination == EDGE else "down" if source == EDGE else "d2d"
        transfer = Transfer(source, destination, link)
        return float(self._world.rates_bps([transfer], self.at_s)[0])


class ConstantWorld:
    """The settings' ``[network]``: one rate for each kind of link, one device for all, no change.

    Parameters
    ----------
    config : NetworkConfig
        Topology, rates, latency, device.
    nodes : int
        Addresses are ``n0`` to ``n<nodes-1>``.
    seed : int
        Draws a random topology.
    """

    def __init__(self, config: NetworkConfig, nodes: int, seed: int = 0) -> None:
        self._neighbours = neighbours_of(config, nodes, seed)
        self._rates_bps = {
            "up": config.up_bps,
            "down": config.down_bps,
            "d2d": config.d2d_bps,
            "backhaul": config.backhaul_bps,
        }
        self._latency_s = config.latency_s
        self._device = Device(config.flops_per_s, config.joules_per_flop, config.joules_per_bit)

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        """Return the neighbours of the topology, the same at all times."""
        return self._neighbours[address]

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        """Return the rate of each transfer's kind of link, whatever else is under way."""
        return np.array([self._rates_bps[transfer.link] for transfer in transfers])

    def next_change_s(self, at_s: float) -> float:
        """Return infinity."""
        return math.inf

    def latency_s(self, source: str, destination: str, at_s: float) -> float:
        """Return the one latency of all messages."""
        return self._latency_s

    def device(self, address: str) -> Device:
        """Return the one device."""
        return self._device

    def available(self, address: str, at_s: float) -> bool:
        """Return True: nobody leaves."""
        return True

    def spend(self, address: str, joules: float, at_s: float) -> None:
        """Do nothing: batteries have no end here."""

    def seen_by(self, address: str, at_s: float) -> View:
        """Return what one node can know."""
        return View(self, address, at_s)


WORLDS: dict[str, Callable[[NetworkConfig, int, int], World]] = {"constant": ConstantWorld}
"""Made from the settings, the number of nodes and the seed, by the name in `[network]`."""


@lru_cache(maxsize=16)
def world_of(config: NetworkConfig, nodes: int, seed: int) -> World:
    """Return the world of a run, the same one in every process, or refuse its name."""
    if config.world not in WORLDS:
        raise ConfigError("network.world", config.world, f"accepted: {', '.join(WORLDS)}")
    return WORLDS[config.world](config, nodes, seed)
