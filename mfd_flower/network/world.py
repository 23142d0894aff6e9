"""The world that a run lives in: who reaches whom, at which rate, with what device, at which time.

Everything that turns counted bytes and FLOPs into seconds and joules is asked of one `World`. It is
a pure function of the settings, the seed, virtual time and what was spent; wall time never shows.
A node is shown its own part of it only, as a `View`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    sample_s: float = 0.0
    """What it takes to acquire a sample, before it is used for the first time."""
    sample_j: float = 0.0
    kind: str = ""
    """Its name among `mfd_flower.network.devices.PROFILES`, where the world deals them out."""


class World:
    """Answers for all nodes; times are virtual seconds from the start of the run.

    This one is the settings' ``[network]``: one rate for each kind of link, one device for all, no
    change. `seed` draws a random topology. Another world overrides what differs in it.
    """

    shares: bool = False
    """Whether messages under way at the same time slow each other down."""
    patience_s: float = math.inf
    """How long a sender that is not heard tries, before it gives its message up."""

    def __init__(self, config: NetworkConfig, nodes: int, seed: int = 0) -> None:
        self._config = config
        self.timeout_s = config.timeout_s
        """How long a sender waits for word of a message that is lost."""
        self._addresses = tuple(f"n{index}" for index in range(nodes))
        # A full mesh is told on demand: its table would grow with the square of the nodes.
        full = config.topology == "full"
        self._neighbours = {} if full else neighbours_of(config, nodes, seed)

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        """Return the addresses that one ``d2d`` link reaches."""
        if self._config.topology == "full":
            return tuple(name for name in self._addresses if name != address)
        return self._neighbours[address]

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        """Return the rate of each of all transfers that are under way; 0 where out of reach."""
        here = self._config
        of = {"up": here.up_bps, "down": here.down_bps, "d2d": here.d2d_bps}
        of["backhaul"] = here.backhaul_bps
        return np.array([of[each.link] for each in transfers])

    def links_bps(
        self, source: str, destinations: Sequence[str], at_s: float
    ) -> NDArray[np.float64]:
        """Return the rates of a node's links to others, of each if it alone is sent over."""
        links = [[Transfer(source, other, "d2d")] for other in destinations]
        return np.array([float(self.rates_bps(link, at_s)[0]) for link in links])

    def next_change_s(self, at_s: float) -> float:
        """Return until when the rates of `at_s` hold; infinite if they never change."""
        return math.inf

    def latency_s(self, source: str, destination: str, at_s: float) -> float:
        """Return how long the first bit of a message takes."""
        return self._config.latency_s

    def device(self, address: str) -> Device:
        """Return a node's device, or the edge server's."""
        config = self._config
        return Device(
            config.flops_per_s,
            config.joules_per_flop,
            config.joules_per_bit,
            sample_s=config.sample_s,
            sample_j=config.sample_j,
        )

    def slower(self, address: str, at_s: float) -> float:
        """Return how many times as long a node computes at a time, busy with things of its own."""
        return 1.0

    def area(self, address: str, at_s: float) -> str:
        """Return which area of the network a node is in: here there is one, without a name."""
        return ""

    def places_m(self, at_s: float) -> NDArray[np.float64] | None:
        """Return where nodes are, ``(nodes, 2)`` in metres; None where they are nowhere."""
        return None

    @property
    def sites_m(self) -> NDArray[np.float64]:
        """Where base stations stand, ``(sites, 2)`` in metres."""
        return np.zeros((0, 2))

    def site_of(self, address: str, at_s: float) -> int:
        """Return the base station that serves a node; the first where there is none."""
        return 0

    def available(self, address: str, at_s: float) -> bool:
        """Tell whether a node takes part now: switched on, in reach, awake."""
        return True

    def sending_j(self, transfer: Transfer, size_bytes: int, at_s: float, air_s: float) -> float:
        """Return what it costs a sender to send so much from `at_s` on, in `air_s` seconds."""
        return 8 * size_bytes * self.device(transfer.source).joules_per_bit

    def spectrum_hz_s(
        self, transfer: Transfer, size_bytes: int, at_s: float, air_s: float
    ) -> float:
        """Return how much bandwidth, for how long, a message takes; 0 of links without one."""
        return 0.0

    def spend(self, address: str, joules: float, at_s: float) -> None:
        """Take energy out of a node's battery; here it has no end."""

    def state(self) -> dict[str, Any]:
        """Return what was spent, as a checkpoint keeps it."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def out_of_reach(self, address: str) -> list[str]:
        """Return whom no chain of ``d2d`` links from a node leads to, where links never change.

        Where they do nobody is: who has walked off may come back.
        """
        if math.isfinite(self.next_change_s(0.0)):
            return []
        reached, edge = {address}, [address]
        while edge and len(reached) < len(self._addresses):
            near = {other for each in edge for other in self.neighbours(each, 0.0)}
            edge = sorted(near - reached)
            reached |= near
        return [name for name in self._addresses if name not in reached]

    def seen_by(self, address: str, at_s: float) -> View:
        """Return what one node can know."""
        return View(self, address, at_s)


class View:
    """A world as one node sees it at one moment: its own links and its own device."""

    def __init__(self, world: World, address: str, at_s: float = 0.0) -> None:
        self._world, self.address, self.at_s = world, address, at_s

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Addresses that one link reaches."""
        return self._world.neighbours(self.address, self.at_s)

    @property
    def area(self) -> str:
        """The area of the network that this node is in."""
        return self._world.area(self.address, self.at_s)

    @property
    def changes(self) -> bool:
        """Whether links come, go and change their rates."""
        return math.isfinite(self._world.next_change_s(self.at_s))

    @property
    def device(self) -> Device:
        """The node's own device, as fast as it is now."""
        device = self._world.device(self.address)
        slower = self._world.slower(self.address, self.at_s)
        return replace(device, flops_per_s=device.flops_per_s / slower) if slower != 1 else device

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
        return float(self._world.rates_bps([Transfer(source, destination, link)], self.at_s)[0])
