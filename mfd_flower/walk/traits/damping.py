"""How much of its update a node passes on: less as the walk goes on.

A walk without damping ends where its last nodes pull it; a share that falls with the hops is the
step size that stochastic approximation lets fall (Robbins and Monro 1951), taken on the update of a
whole visit and not on those of its batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mfd_flower.checks import bounded
from mfd_flower.walk.plan import Plan
from mfd_flower.walk.trait import Trait
from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class Damping(Trait):
    """Pass on a share of the update that changes on a straight line over the first tours."""

    start: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Share at the first hop."""
    end: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Share after `tours` tours."""
    tours: float = bounded(2.0, 0.0)
    """Tours (as many hops as nodes) over which the share changes; with 0 it is `end` at once."""

    def share(self, hop: int, plan: Plan) -> float:
        """Return the share of a walker's hop, from 1; each of several walkers counts its own."""
        span = self.tours * plan.nodes
        done = min(1.0, (hop - 1) / span) if span > 0 else 1.0
        return self.start + (self.end - self.start) * done

    def after(self, visit: Visit) -> None:
        """Keep that share of every change."""
        if (share := self.share(visit.start.hop, visit.plan)) < 1:
            visit.changes = {
                name: torch.lerp(visit.tensors[name], tensor, share)
                for name, tensor in visit.changes.items()
            }
