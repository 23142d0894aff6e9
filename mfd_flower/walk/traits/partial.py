"""Each node decides how much of the model it updates (whitepaper, section 2.6).

By its link, its compute and its data the node has a budget; within it go the tunables most tied to
local data (largest entropy of their gradient), or those updated least recently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mfd_flower.checks import bounded
from mfd_flower.models.partial import idle_hops, selected, update_share
from mfd_flower.walk.trait import Trait
from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class Partial(Trait):
    """Train some of the tunables, by whole tensors."""

    by: Literal["entropy", "least-recent"] = "entropy"
    """``entropy``: the largest entropy of the local gradient; ``least-recent``: longest ago."""
    budget: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Largest share of the tunables' values that one visit updates."""
    visit_s: float = bounded(0.0, 0.0)
    """Virtual seconds that a visit may take, transfer included, which limits the share further; 0
    for no limit."""

    def select(self, visit: Visit) -> None:
        """Choose what this visit trains."""
        sizes = {name: tensor.numel() for name, tensor in visit.tensors.items()}
        scores = (
            visit.node.gradient_entropy(visit.tensors)
            if self.by == "entropy"
            else idle_hops(sizes, visit.start.updated, visit.start.hop)
        )
        share = self.budget
        if self.visit_s:
            world = visit.node.world_view()
            share = update_share(
                share,
                sum(tensor.nbytes for tensor in visit.start.payload.values()),
                min(world.rate_to_bps(peer) for peer in world.neighbours),
                visit.node.fit_flops() / world.device.flops_per_s,
                self.visit_s,
            )
        visit.only = selected(scores, sizes, share)
