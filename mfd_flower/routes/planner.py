"""A planner that knows all links as they are at one moment, and orders a tour before it begins.

What hop-by-hop decisions are measured against (whitepaper, section 2.6): with all knowledge in one
place the shortest tour is an open travelling salesman's path over the times of the shortest ways.
It is solved as an integer program with subtours cut off as they show up (Dantzig, Fulkerson and
Johnson 1954), over arcs to each node's nearest. Where there are too many nodes for that it always
goes to the nearest one left, and turns stretches round as long as that saves time (2-opt: Croes
1958).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra

from mfd_flower.network.world import World

MOST_SOLVED = 50
"""Nodes above which no solver is tried."""
NEAREST = 12
"""Of each node, the arcs that a tour may use."""
GAP = 0.005
"""By how much of it a solver's order may miss the least time: links are often equally good."""
MOST_BRANCHES, MOST_CUTS = 200, 25
"""Of the solver's tree, and how often subtours are cut off; then the nearest are taken. Not a time,
so that a plan does not depend on the machine."""


@dataclass(frozen=True)
class TourPlan:
    """The order in which a tour comes to nodes, and which way from one to the next."""

    order: list[int]
    """Nodes, the start first; those it does not reach are left out."""
    solved: bool
    """Whether the order is a solver's."""
    planning_s: float
    """Wall time that it took."""
    ahead: NDArray[np.int32]
    """``ahead[i, j]`` is the node before ``j`` on the way from ``i``."""

    def way(self, source: int, destination: int) -> list[int]:
        """Return the nodes from one to another, without the first."""
        if source == destination:
            return []
        back = [destination]
        while (before := int(self.ahead[source, back[-1]])) != source:
            back.append(before)
        return back[::-1]


def planned_tour(
    world: World, nodes: int, start: int, packet_bytes: int, at_s: float = 0.0
) -> TourPlan:
    """Plan a tour over all nodes that `start` reaches, by the links of one moment."""
    began = time.perf_counter()
    links = link_seconds(world, nodes, packet_bytes, at_s)
    ways_s, ahead = dijkstra(links, return_predecessors=True)
    reached = np.flatnonzero(np.isfinite(ways_s[start]))
    times = ways_s[np.ix_(reached, reached)]
    here = int(np.flatnonzero(reached == start)[0])
    found = solved_order(times, here) if len(reached) <= MOST_SOLVED else None
    order = turned(nearest_order(times, here), times) if found is None else found
    spent = time.perf_counter() - began
    return TourPlan(reached[order].tolist(), found is not None, spent, ahead)


def link_seconds(world: World, nodes: int, packet_bytes: int, at_s: float) -> csr_array:
    """Return what a packet takes over each link, ``(nodes, nodes)``; no entry is no link."""
    rows, columns, seconds = [], [], []
    for node in range(nodes):
        address = f"n{node}"
        near = world.neighbours(address, at_s)
        for other, rate in zip(near, world.links_bps(address, near, at_s), strict=True):
            if rate:
                rows.append(node)
                columns.append(int(other.removeprefix("n")))
                latency_s = world.latency_s(address, other, at_s)
                seconds.append(latency_s + 8 * packet_bytes / rate)
    return csr_array((seconds, (rows, columns)), shape=(nodes, nodes))


def nearest_order(times: NDArray[np.float64], start: int) -> list[int]:
    """Return the order of always going to the nearest one left; `times` is ``(nodes, nodes)``."""
    left, order = np.ones(len(times), bool), [start]
    left[start] = False
    while left.any():
        order.append(int(np.where(left, times[order[-1]], np.inf).argmin()))
        left[order[-1]] = False
    return order


def turned(order: list[int], times: NDArray[np.float64]) -> list[int]:
    """Return the order with stretches turned round while the whole becomes shorter by that.

    It takes what a way takes for the mean of both directions; the first node stays where it is.
    """
    mean, path = (times + times.T) / 2, np.array(order)
    better = True
    while better:
        better = False
        for place in range(len(path) - 2):
            here, after = path[place], path[place + 1]
            ends = path[place + 2 :]
            behind = np.append(mean[ends[:-1], ends[1:]], 0.0)
            joined = np.append(mean[after, ends[1:]], 0.0)
            gain = mean[here, after] + behind - mean[here, ends] - joined
            best = int(gain.argmax())
            if gain[best] > 1e-9 * mean[here, after]:
                stretch = slice(place + 1, place + 3 + best)
                path[stretch] = path[stretch][::-1]
                better = True
    return path.tolist()


def solved_order(times: NDArray[np.float64], start: int) -> list[int] | None:
    """Return the order of least time from `start` on, None if the solver gives up.

    A path is a round trip over one more node, to which all come back for nothing. Each node's arcs
    are those to its `NEAREST`; up to that many nodes the order is the best one there is, but for
    `GAP`.
    """
    count = len(times)
    if count <= 2:
        return nearest_order(times, start)
    far = times + np.diag(np.full(count, np.inf))
    near = np.argsort(far, axis=1)[:, : min(NEAREST, count - 1)]
    tails = np.concatenate([np.repeat(np.arange(count), near.shape[1]), np.arange(count), [count]])
    heads = np.concatenate([near.ravel(), np.full(count, count), [start]])
    keep = (heads != start) | (tails == count)
    tails, heads = tails[keep], heads[keep]
    costs = np.array(
        [0.0 if count in (a, b) else times[a, b] for a, b in zip(tails, heads, strict=True)]
    )
    arcs = np.arange(len(tails))
    ones = np.ones(len(tails))
    shape = count + 1, len(tails)
    once = [
        LinearConstraint(coo_array((ones, (ends, arcs)), shape=shape).tocsr(), 1, 1)
        for ends in (tails, heads)
    ]
    cuts: list[LinearConstraint] = []
    for _ in range(MOST_CUTS):
        found = milp(
            costs,
            constraints=[*once, *cuts],
            bounds=Bounds(0, 1),
            integrality=ones,
            options={"node_limit": MOST_BRANCHES, "mip_rel_gap": GAP},
        )
        if found.x is None or not found.success:
            return None
        taken = arcs[found.x > 0.5]
        graph = coo_array(
            (np.ones(len(taken)), (tails[taken], heads[taken])), shape=(count + 1,) * 2
        )
        parts, part = connected_components(graph, directed=False)
        if parts == 1:
            return _unrolled(
                dict(zip(tails[taken].tolist(), heads[taken].tolist(), strict=True)), count
            )
        for number in range(parts):
            inside = part == number
            row = (inside[tails] & inside[heads]).astype(float)
            cuts.append(LinearConstraint(row[None], -np.inf, inside.sum() - 1))
    return None


def _unrolled(following: dict[int, int], home: int) -> list[int]:
    order = [following[home]]
    while (onward := following[order[-1]]) != home:
        order.append(onward)
    return order
