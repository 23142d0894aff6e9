"""Walkers meet when their hops are used up, and one model comes out: the average of theirs.

An average over runs that began as one model is a model soup (Wortsman et al. 2022, arXiv
2203.05482); here they came to the same nodes in other orders. Nobody trains where they meet, so it
does not matter which node that is: it is the one where the first walker began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mfd_flower.config import RunConfig
from mfd_flower.packets import Header, PacketError
from mfd_flower.routing import Candidate
from mfd_flower.walk.plan import plan_of, version_zero
from mfd_flower.walk.tours import newest, towards
from mfd_flower.walk.trait import Fit, Layer, Training, Trait
from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class Merge(Trait):
    """Average the models of all walkers, weighted by their visits, at a node where they end."""

    layer: ClassVar[Layer] = Layer.MERGE

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Name the node to meet at, and leave hops enough to get there over others."""
        plan = plan_of(run)
        meeting = f"n{plan.policy.start_node}"
        return tensors, {**header, "ttl": header["ttl"] + plan.nodes, "meeting": meeting}

    def arrive(self, visit: Visit) -> None:
        """Mix in what those left here who came before; what a walker leaves has all so far."""
        if not _meets(visit, visit.start):
            return
        if visit.start.shapes != version_zero(visit.node.run).shapes:
            # Left here it would be what nobody else can be averaged with.
            raise PacketError("shapes: not those of the model that walkers began as")
        if (last := _last_here(visit)) is None:
            return
        kept = visit.custody.kept(last.walker)
        theirs, ours = kept.decoded(), visit.start.hop - 1
        share = 1 - ours / (ours + sum(map(_visits, _ended(visit))))
        visit.tensors = {
            name: torch.lerp(tensor, theirs[name], share) for name, tensor in visit.tensors.items()
        }
        visit.merged.append(kept.version)

    def select(self, visit: Visit) -> None:
        """Train nothing on the way to where walkers meet."""
        if _is_through(visit, visit.start):
            visit.only = set()

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train unless all hops for that are used up."""
        if _is_through(visit, visit.start):
            return Fit(dict(tensors), 0, {})
        return inner(tensors, **keywords)

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Go to where walkers meet when all hops but the spare ones are used up."""
        told = newest(visit)
        left = told.ttl if "onward" in vars(visit) else told.ttl - 1
        if left > visit.plan.nodes or _meets(visit, told):
            return candidates
        if visit.node.address == told.meeting:
            return []
        return towards(visit, {told.meeting}, candidates)

    def depart(self, visit: Visit) -> None:
        """End where walkers meet, with what all so far have trained on."""
        packet = visit.start
        if not _is_through(visit, packet):
            return
        visit.header["seen"] = packet.seen
        if _meets(visit, packet):
            visit.header["ttl"] = 0
        if (last := _last_here(visit)) is not None:
            pairs = zip(packet.seen, last.seen, strict=True)
            visit.header["seen"] = tuple(ours + theirs for ours, theirs in pairs)
            visit.header["samples"] = packet.samples + last.samples


def _is_through(visit: Visit, packet: Header) -> bool:
    """Tell whether a packet has no hops left but those to where walkers meet."""
    return packet.ttl <= visit.plan.nodes


def _meets(visit: Visit, packet: Header) -> bool:
    return _is_through(visit, packet) and visit.node.address == packet.meeting


def _ended(visit: Visit) -> list[Header]:
    """Return what other walkers of the same task left where this one meets them."""
    packet = visit.start
    if not _meets(visit, packet):
        return []
    found = (visit.custody.header(walker) for walker in visit.custody.walkers())
    left = (header for header in found if header and not header.ttl)
    return [h for h in left if h.walker != packet.walker and h.task == packet.task]


def _last_here(visit: Visit) -> Header | None:
    return max(_ended(visit), key=lambda header: header.samples, default=None)


def _visits(ended: Header) -> int:
    """Return the hops of a walker before the one that ended it."""
    return ended.hop - 2
