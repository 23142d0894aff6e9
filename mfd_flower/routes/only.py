"""Routes without training: every hop of many walkers over a world, decided as in a run.

The holder knows what it would know in a run: its neighbours now, what those it asked told it, what
the packet's header says. It decides by the same `Policy`, drawn from the same generators, so that a
route is that of a run with the same costs. Time is virtual: a hop computes, asks, decides, sends.
What a visit computes and what travels are given, as a run of the real thing counts them; messages
of different walkers do not slow each other down.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError, bounded, check_fields
from mfd_flower.network.world import Transfer, World
from mfd_flower.routing import Candidate, Policy, Trail, interest
from mfd_flower.routing.policy import CHOICE, MEMORY, PROBES

UNUSED = np.random.default_rng(0)
"""For policies that draw nothing: to seed a generator takes as long as to choose."""


@dataclass(frozen=True)
class VisitCosts:
    """What a visit takes, counted in a run of the real thing."""

    packet_bytes: int = bounded(6_800, 1)
    """Of a packet's message, as serialised."""
    question_bytes: int = bounded(200, 1)
    """Of a message that asks a neighbour for its advert."""
    advert_bytes: int = bounded(300, 1)
    flops_a_sample: float = bounded(1e8, 0.0)
    """Of all epochs of a visit."""

    def __post_init__(self) -> None:
        check_fields(VisitCosts, self, ConfigError)


@dataclass
class Route:
    """Where walkers went: one entry a hop, in the order of virtual time."""

    walkers: NDArray[np.int32]
    nodes: NDArray[np.int32]
    arrived_s: NDArray[np.float64]
    packet_bytes: int
    """Of all packets sent."""
    control_bytes: int
    """Of all questions and adverts."""
    broken: int
    """Hops whose receiver was out of reach when the packet was sent."""

    def of_walker(self, walker: int) -> NDArray[np.int32]:
        """Return the nodes that one walker came to, in order."""
        return self.nodes[self.walkers == walker]

    def samples(self, label_counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the unlike samples that all walkers together have seen, after each hop."""
        first = np.zeros(len(self.nodes), bool)
        first[np.unique(self.nodes, return_index=True)[1]] = True
        return np.cumsum(np.where(first, label_counts[self.nodes].sum(1), 0.0))


@dataclass
class _Walker:
    """A packet's header, as far as routes go by it."""

    number: int
    node: int
    seen: NDArray[np.float64]
    hop: int = 1
    visited: deque[str] = field(default_factory=lambda: deque(maxlen=MEMORY))
    toured: str = ""
    source: str = ""
    """Who had it before."""
    came: set[int] = field(default_factory=set)
    """All nodes it came to, which no header has room for: kept by the simulation alone."""


class RoutesOnly:
    """Walkers over the nodes of a world.

    Parameters
    ----------
    world : World
        Who reaches whom, at which rate.
    policy : Policy
        How holders choose; nobody announces anything before it is asked (``advert_hops`` 0).
    label_counts : ndarray
        Samples of each class at each node, ``(nodes, classes)``.
    costs : VisitCosts
    seed : int
        Of the run whose route this is.
    walkers : int
    once : bool
        A node computes when a walker comes for the first time, as with sums.
    """

    def __init__(
        self,
        world: World,
        policy: Policy,
        label_counts: NDArray[np.float64],
        costs: VisitCosts,
        seed: int = 0,
        walkers: int = 1,
        once: bool = False,
    ) -> None:
        told = policy.by_loss, policy.by_features, policy.noise_epsilon, policy.area
        if policy.advert_hops or any(told):
            said = "advert_hops = 0, without loss, features, noise and area"
            raise ConfigError("options.policy", policy.name, said)
        self._world, self._policy, self._costs, self._seed = world, policy, costs, seed
        self._once = once
        self._counts = label_counts
        self._samples = label_counts.sum(1)
        self._tells: dict[str, Candidate] = {}
        self._known: dict[int, dict[str, Candidate]] = {}
        nodes = len(label_counts)
        starts = [(policy.start_node + n * nodes // walkers) % nodes for n in range(walkers)]
        empty = np.zeros(label_counts.shape[1])
        self._walkers = [_Walker(n, start, empty.copy()) for n, start in enumerate(starts)]
        self._due = [(0.0, walker.number) for walker in self._walkers]
        self._trails: dict[tuple[int, int], Trail] = {}
        self._sent, self._control, self._broken = 0, 0, 0

    def run(self, hops: int) -> Route:
        """Make so many hops in all, those that come first in virtual time."""
        walkers, nodes = np.empty(hops, np.int32), np.empty(hops, np.int32)
        arrived = np.empty(hops)
        for number in range(hops):
            at_s, name = heapq.heappop(self._due)
            walker = self._walkers[name]
            walkers[number], nodes[number], arrived[number] = name, walker.node, at_s
            heapq.heappush(self._due, (self._visit(walker, at_s), name))
        sent = self._sent * self._costs.packet_bytes
        return Route(walkers, nodes, arrived, sent, self._control, self._broken)

    def _visit(self, walker: _Walker, at_s: float) -> float:
        """Compute, ask, decide and send; returns when the packet arrives where it goes next."""
        here, address = walker.node, f"n{walker.node}"
        walker.hop += 1
        walker.visited.append(address)
        before = walker.toured
        walker.toured = self._policy.toured(before, address, len(self._counts))
        recent = self._policy.recent(tuple(walker.visited), walker.toured)
        near = self._world.neighbours(address, at_s)
        known = self._known.setdefault(here, {})
        rng = self._rng(here, walker.hop, PROBES)
        asked = self._policy.asks(near, recent, known, rng) if self._policy.probes else []
        if self._policy.tour:
            self._trails.setdefault((walker.number, here), Trail())
            if before and address not in self._policy.recent((), before):
                self._trails[walker.number, here] = Trail(walker.source)
        walker.source = address
        again = self._once and here in walker.came
        walker.came.add(here)
        flops = 0.0 if again else self._costs.flops_a_sample * self._samples[here]
        walker.seen += 0.0 if again else self._counts[here]
        slower = self._world.slower(address, at_s)
        done_s = at_s + flops / self._world.device(address).flops_per_s * slower
        if asked:
            done_s = self._ask(address, asked, done_s)
            near = self._world.neighbours(address, done_s)
        if not near:
            # Nobody is there: a run trains once more meanwhile; who has nothing to do waits.
            return done_s if done_s > at_s else self._world.next_change_s(at_s)
        chosen = self._chosen(walker, address, near, recent, known, done_s)
        return self._send(walker, address, chosen, done_s)

    def _ask(self, address: str, asked: Sequence[str], at_s: float) -> float:
        """Have neighbours tell of themselves; returns when the last one has."""
        world, costs, known = self._world, self._costs, self._known[int(address[1:])]
        ends_s = at_s
        there = [Transfer(address, other, "d2d") for other in asked]
        rates = world.rates_bps(there, at_s)
        for other, rate_bps in zip(asked, rates.tolist(), strict=True):
            if rate_bps:
                bits = 8 * (costs.question_bytes + costs.advert_bytes)
                ends_s = max(ends_s, at_s + bits / rate_bps + 2 * world.latency_s(*there[0][:2], 0))
                known[other] = self._told(other, at_s)
                self._control += costs.question_bytes + costs.advert_bytes
        return ends_s

    def _told(self, address: str, at_s: float) -> Candidate:
        """Return what a node tells of itself, which does not change but for its neighbours."""
        if address not in self._tells:
            counts = self._counts[int(address[1:])]
            samples = round(float(counts.sum()))
            speed = self._world.device(address).flops_per_s
            value = round(interest(counts, (), samples=samples), 4)
            labels = tuple(counts.tolist())
            self._tells[address] = Candidate(address, labels, samples, speed, interest=value)
        told = self._tells[address]
        if not self._policy.by_degree:
            return told
        return replace(told, degree=len(self._world.neighbours(address, at_s)))

    def _chosen(
        self,
        walker: _Walker,
        address: str,
        near: Sequence[str],
        recent: frozenset[str],
        known: dict[str, Candidate],
        at_s: float,
    ) -> str:
        """Return where the packet goes; to the holder itself if nobody is there."""
        first = walker.hop - len(walker.visited)
        last = {name: first + place for place, name in enumerate(walker.visited)}
        told = [
            replace(known[a], last_visit=last[a]) if a in last else known[a]
            for a in near
            if a in known
        ]
        there = told or [Candidate(a, last_visit=last.get(a, -1)) for a in near]
        if self._policy.by_rate:
            names = [each.address for each in there]
            rates = self._world.links_bps(address, names, at_s).tolist()
            there = [replace(c, link_bps=rate) for c, rate in zip(there, rates, strict=True)]
        counts = tuple(self._counts[walker.node].tolist())
        speed = self._world.device(address).flops_per_s / self._world.slower(address, at_s)
        own = Candidate(
            address,
            counts,
            round(float(self._samples[walker.node])),
            speed,
            degree=len(known),
            last_visit=last[address],
        )
        rng = self._rng(walker.node, walker.hop, CHOICE) if self._policy.draws else UNUSED
        trail = self._trails.get((walker.number, walker.node))
        seen = walker.seen.tolist()
        return self._policy.chosen(own, there, recent, seen, rng, walker.hop, "", trail, near)

    def _send(self, walker: _Walker, address: str, chosen: str, at_s: float) -> float:
        """Send the packet; returns when it arrives, at once where it stays."""
        if chosen == address:
            return at_s
        link = Transfer(address, chosen, "d2d")
        rate_bps = float(self._world.rates_bps([link], at_s)[0])
        if not rate_bps:
            # Given up: the holder has it still, trains once more, and looks again.
            self._broken += 1
            return at_s + self._world.patience_s
        walker.node = int(chosen[1:])
        self._sent += 1
        return at_s + 8 * self._costs.packet_bytes / rate_bps + self._world.latency_s(*link[:2], 0)

    def _rng(self, node: int, step: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, node, step, purpose])
