"""A tour along a plan: one walker, whose way was worked out before it began.

Nodes report their links and labels to the planner; the packet carries what is left of the plan, as
IPv6's segment routing does (RFC 8754). Those between two stops forward it. Where a link of the plan
is gone the holder gives it up after the world's patience: it goes on to the next stop and comes
back to this one last. With `replans` all nodes report again after so many breaks, and there is a
new plan; and so it is, as long as it waits, for nodes that no way led to before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mfd_flower.network.world import Transfer, World
from mfd_flower.routes.only import Route, VisitCosts
from mfd_flower.routes.planner import TourPlan, planned_tour

ENTRY_BYTES = 6
"""Of a link in a report, and of a stop in a plan: an address and what it takes."""
TRIES = 3
"""How often a stop is tried before it is left out."""
WAITS = 20
"""How often in a row a new plan is asked for where there is no way to those left."""


@dataclass
class PlannedTour:
    """A tour over all nodes that a planner's knowledge reaches.

    Attributes
    ----------
    planning_s : float
        Wall time of all plans.
    plans, missed : int
        How many were made; to how many nodes it did not come.
    """

    world: World
    label_counts: NDArray[np.float64]
    """Samples of each class at each node, ``(nodes, classes)``."""
    costs: VisitCosts
    start: int = 0
    replans: int = 0
    """Breaks after which there is a new plan; 0 for never."""
    at_stops: bool = False
    """Whether there is one at each stop too, when what is computed there is done."""
    planning_s: float = 0.0
    plans: int = 0
    missed: int = 0
    _sent: int = 0
    _control: int = 0
    _broken: int = 0
    _tries: Counter[int] = field(default_factory=Counter)

    def run(self) -> Route:
        """Follow the plan to its end."""
        plan = self._planned(self.start, 0.0)
        here, at_s, left, waits = self.start, 0.0, plan.order[1:], 0
        nodes, arrived = [here], [at_s]
        at_s = self._trained_s(here, at_s)
        while left or (self.replans and len(nodes) < len(self.label_counts) and waits < WAITS):
            came = False
            if left:
                here, at_s, came = self._carried(plan, here, left[0], at_s, len(left))
            if came:
                nodes.append(here)
                arrived.append(at_s)
                at_s, left, waits = self._trained_s(here, at_s), left[1:], 0
                if self.at_stops and left:
                    plan = self._planned(here, at_s)
                    left = self._to_come(plan, nodes)
            elif self.replans and (not left or self._broken % self.replans == 0):
                at_s += 0.0 if left else self.world.patience_s
                plan = self._planned(here, at_s)
                left, waits = self._to_come(plan, nodes), waits + 1
            else:
                left = self._without(left)
        self.missed = len(self.label_counts) - len(nodes)
        return Route(
            np.zeros(len(nodes), np.int32),
            np.array(nodes, np.int32),
            np.array(arrived),
            self._sent * self.costs.packet_bytes,
            self._control,
            self._broken,
        )

    def _to_come(self, plan: TourPlan, done: Sequence[int]) -> list[int]:
        come = set(done)
        return [node for node in plan.order if node not in come]

    def _without(self, left: list[int]) -> list[int]:
        """Return what is left when a stop was not reached: the same later, unless too often."""
        self._tries[left[0]] += 1
        return left[1:] + (left[:1] if self._tries[left[0]] < TRIES else [])

    def _planned(self, start: int, at_s: float) -> TourPlan:
        """Have all nodes report, and plan."""
        nodes = len(self.label_counts)
        plan = planned_tour(self.world, nodes, start, self.costs.packet_bytes, at_s)
        links = sum(len(self.world.neighbours(f"n{node}", at_s)) for node in range(nodes))
        self._control += nodes * self.costs.advert_bytes + ENTRY_BYTES * (links + len(plan.order))
        self.planning_s += plan.planning_s
        self.plans += 1
        return plan

    def _trained_s(self, node: int, at_s: float) -> float:
        flops = self.costs.flops_a_sample * float(self.label_counts[node].sum())
        name = f"n{node}"
        slower = self.world.slower(name, at_s)
        return at_s + flops / self.world.device(name).flops_per_s * slower

    def _carried(
        self, plan: TourPlan, here: int, stop: int, at_s: float, stops: int
    ) -> tuple[int, float, bool]:
        """Carry the packet to a stop, link by link; returns where it is, when, and whether it came.

        `stops` are left, each of them an entry in what travels with it.
        """
        for there in plan.way(here, stop):
            link = Transfer(f"n{here}", f"n{there}", "d2d")
            rate_bps = float(self.world.rates_bps([link], at_s)[0])
            if not rate_bps:
                self._broken += 1
                return here, at_s + self.world.patience_s, False
            carried = self.costs.packet_bytes + ENTRY_BYTES * stops
            at_s += 8 * carried / rate_bps + self.world.latency_s(*link[:2], at_s)
            self._sent += 1
            self._control += ENTRY_BYTES * stops
            here = there
        return here, at_s, True
