"""What else was tried with several walkers than to meet at the end, as traits.

For `options.traits."experiments.tried_walkers:Meetings" = { every = 5 }` and the like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord

from mfd_flower.checks import bounded
from mfd_flower.node import initial_tunables
from mfd_flower.records import tensors_of
from mfd_flower.routing import Candidate
from mfd_flower.walk.plan import Plan
from mfd_flower.walk.tours import newest, towards
from mfd_flower.walk.trait import Layer, Trait
from mfd_flower.walk.traits.damping import Damping
from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class SharedDamping(Damping):
    """Damping over the hops of all walkers together."""

    def share(self, hop: int, plan: Plan) -> float:
        """Return the share of a walker's hop, as if all hops were its own."""
        return super().share(1 + (hop - 1) * plan.walkers, plan)


@dataclass(frozen=True)
class Passing(Trait):
    """Average with every version that another walker left here, weighted by samples, once each."""

    layer: ClassVar[Layer] = Layer.MERGE

    def arrive(self, visit: Visit) -> None:
        """Mix in what is new here."""
        done = dict(visit.recall("passing") or {})
        for walker in visit.custody.walkers():
            header = visit.custody.header(walker)
            if walker == visit.start.walker or header is None or done.get(walker) == header.hop:
                continue
            other = visit.custody.kept(walker)
            theirs, share = other.decoded(), other.samples / (other.samples + visit.start.samples)
            visit.tensors = {
                name: torch.lerp(tensor, theirs[name], share)
                for name, tensor in visit.tensors.items()
            }
            done[walker] = header.hop
        if done:
            visit.keep("passing", ConfigRecord({**done}))


@dataclass(frozen=True)
class Meetings(Trait):
    """Come by the first walker's start every so many hops, where a common model is kept.

    A walker adds its part of what it has learnt since it was there, with momentum if asked for
    (Douillard et al. 2023, DiLoCo, arXiv 2311.08105; here nobody waits), and goes on from there.
    """

    every: int = bounded(5, 1)
    """Hops of a walker from one meeting to the next."""
    momentum: float = bounded(0.0, 0.0, 1.0)

    layer: ClassVar[Layer] = Layer.MERGE

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Go there when it is time."""
        told, there = newest(visit), f"n{visit.plan.policy.start_node}"
        hop = told.hop if "onward" in vars(visit) else told.hop + 1
        if hop % self.every or visit.node.address == there:
            return candidates
        return towards(visit, {there}, candidates)

    def arrive(self, visit: Visit) -> None:
        """Add to the common model, and take it along."""
        here = f"n{visit.plan.policy.start_node}"
        if visit.node.address != here or visit.start.hop % self.every:
            return
        state, walker, start = visit.context.state, visit.start.walker, initial_tunables

        def kept(name: str) -> dict[str, torch.Tensor]:
            record = state.get(name)
            known = tensors_of(record) if isinstance(record, ArrayRecord) else None
            return known or dict(start(visit.node.run))

        common, taken = kept("meetings/common"), kept(f"meetings/{walker}")
        learnt = {n: (t - taken[n]) / visit.plan.walkers for n, t in visit.tensors.items()}
        if self.momentum:
            first = "meetings/speed" not in state
            speed = {n: torch.zeros_like(t) for n, t in learnt.items()}
            speed = speed if first else kept("meetings/speed")
            speed = {n: self.momentum * speed[n] + t for n, t in learnt.items()}
            learnt = {n: t + self.momentum * speed[n] for n, t in learnt.items()}
            visit.keep_for_all("meetings/speed", ArrayRecord(speed))
        visit.tensors = {n: t + learnt[n] for n, t in common.items()}
        for name in ("common", walker):
            visit.keep_for_all(f"meetings/{name}", ArrayRecord(dict(visit.tensors)))


@dataclass(frozen=True)
class Territory(Trait):
    """Keep each walker to its share of the nodes, behind the one where it began."""

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Leave out the others' nodes, where there are own ones."""
        nodes, walkers = visit.plan.nodes, visit.plan.walkers
        number, begin = int(newest(visit).walker[1:]), visit.plan.policy.start_node
        first, last = (n * nodes // walkers for n in (number, number + 1))
        own = {f"n{(begin + place) % nodes}" for place in range(first, last)}
        return [c for c in candidates if c.address in own] or candidates
