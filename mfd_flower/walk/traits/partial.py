"""Each node decides how much of the model it updates (whitepaper, section 2.6).

By its link, its compute and its data the node has a budget: what is updated has to travel on in
time. Within it go the tunables most tied to local data (largest entropy of their gradient), or
those updated least recently. A module here is one tunable tensor, which is also what a packet dates
and digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mfd_flower.checks import bounded
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
        start, sizes = visit.start, {name: t.numel() for name, t in visit.tensors.items()}
        if self.by == "entropy":
            scores = visit.node.gradient_entropy(visit.tensors)
        else:
            scores = {name: float(start.hop - start.updated.get(name, 0)) for name in sizes}
        share = self.budget
        if self.visit_s:
            world = visit.node.world_view()
            compute_s = visit.node.fit_flops() / world.device.flops_per_s
            full_bytes = sum(tensor.nbytes for tensor in start.payload.values())
            # Who reaches nobody now does not know at which rate it will: as if at none.
            slowest_bps = min(map(world.rate_to_bps, world.neighbours), default=0.0)
            share = min(share, timely_share(full_bytes, slowest_bps, self.visit_s - compute_s))
        visit.only = selected(scores, sizes, share)


def timely_share(full_bytes: int, link_bps: float, left_s: float) -> float:
    """Return the share of `full_bytes` of tunables that a link carries in the seconds left."""
    return max(0.0, left_s) * link_bps / (8 * full_bytes)


def selected(scores: Mapping[str, float], sizes: Mapping[str, int], share: float) -> set[str]:
    """Return the tunables of the highest scores whose values are `share` of all, at least one.

    `sizes` are the values of each tunable. One that does not fit any more is passed over for a
    smaller one; ties fall to the smaller tunable, then to the first name.
    """
    left = share * sum(sizes.values())
    ranked = sorted(scores, key=lambda name: (-scores[name], sizes[name], name))
    taken: set[str] = set()
    for name in ranked:
        if sizes[name] <= left * (1 + 1e-9):
            taken.add(name)
            left -= sizes[name]
    return taken or {ranked[0]}
