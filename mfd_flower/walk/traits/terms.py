"""The model grows along the path: ``(((W0 + A1 B1) + A2 B2) + A3 B3) + ...`` (whitepaper, 2.2).

With LoRA every node adds a term of its own. It trains that alone, and the head, on the frozen
weights with the terms of all the others, which nobody but their makers changes. A node that is
visited again goes on with its term, so that a model has one a node. A term is called as its node,
in a ledger's walk the entry of that node has signed it, and what a node gave can be told from what
the others gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from flwr.app import RecordDict
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded
from mfd_flower.config import RunConfig
from mfd_flower.models.lora_terms import (
    OWN,
    adapter_of,
    is_factor,
    renamed,
    stacked,
    standing_on,
)
from mfd_flower.models.residents import model_for
from mfd_flower.node import Node, initial_tunables
from mfd_flower.packets import Packet, PacketError
from mfd_flower.walk.trait import ONE_MODEL, Fit, Layer, Training, Trait

if TYPE_CHECKING:
    from mfd_flower.walk.plan import Plan
    from mfd_flower.walk.visit import Visit

DRAWN = 0x7465726D
"""Purpose of the generator that draws what a node's term begins as."""


@dataclass(frozen=True)
class Terms(Trait):
    """Let every node add a low-rank term of its own."""

    layer: ClassVar[Layer] = Layer.RESIZE
    excludes: ClassVar = (*ONE_MODEL, "merge", "resize", "teach")

    rank: int = bounded(1, 1, 1024)
    """Of each node's term; `model.lora_rank` is that of their sum, so many a node or more."""

    def check(self, run: RunConfig, plan: Plan) -> None:
        """Refuse a model without LoRA, or with too little of it for a term a node."""
        if run.model.tune != "lora":
            raise ConfigError("model.tune", run.model.tune, "accepted by the trait terms: lora")
        if run.model.weights != "fp32":
            said = "accepted by the trait terms: fp32"
            raise ConfigError("model.weights", run.model.weights, said)
        if run.model.lora_rank < (least := self.rank * plan.nodes):
            said = f"at least {least}, options.traits.terms.rank for each node"
            raise ConfigError("model.lora_rank", run.model.lora_rank, said)

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Begin as W0: no term, the head alone."""
        return {name: t for name, t in tensors.items() if not is_factor(name)}, header

    def model(
        self, run: RunConfig, packet: Packet, tensors: Mapping[str, Tensor], beside: RecordDict
    ) -> Mapping[str, Tensor]:
        """Return the sum of all terms as one adapter."""
        usual = initial_tunables(run)
        rest = {name: t for name, t in tensors.items() if not is_factor(name)}
        return {**rest, **stacked(tensors, usual, self.rank)}

    def arrive(self, visit: Visit) -> None:
        """Take terms of nodes that there are, and add this node's own, which begins as nothing."""
        node, own = visit.node, self._own(visit.node)
        usual = initial_tunables(own.run)
        addresses = [f"n{index}" for index in range(visit.plan.nodes)]
        _check(visit.tensors, usual, addresses)
        drawn = torch.Generator().manual_seed(int(node.rng(0, DRAWN).integers(2**62)))
        begun: dict[str, Tensor] = {}
        for name, tensor in usual.items():
            if (mine := renamed(name, OWN, node.address)) != name:
                begun[mine] = torch.zeros_like(tensor)
                if ".lora_A." in name:
                    bound = tensor.shape[1] ** -0.5
                    begun[mine].uniform_(-bound, bound, generator=drawn)
        visit.tensors = {**begun, **visit.tensors}

    def select(self, visit: Visit) -> None:
        """Leave the terms of others as they are."""
        mine = visit.node.address
        visit.only -= {n for n in visit.only if is_factor(n) and adapter_of(n) != mine}

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train this node's term on W0 and the terms of others."""
        own, mine = self._own(visit.node), visit.node.address
        others = {n: t for n, t in tensors.items() if n not in visit.only}
        here = {renamed(n, mine, OWN): tensors[n] for n in tensors if n in visit.only}
        with standing_on(model_for(own.run), others):
            found = inner(here, **keywords, node=own)
        trained = {renamed(n, OWN, mine): t for n, t in found.tensors.items()}
        return Fit({**tensors, **trained}, found.samples, {})

    def _own(self, node: Node) -> Node:
        """Return the node with a model of one term."""
        model = replace(node.run.model, lora_rank=self.rank)
        return Node(replace(node.run, model=model), node.index)


def _check(
    tensors: Mapping[str, Tensor], usual: Mapping[str, Tensor], addresses: Sequence[str]
) -> None:
    """Raise `PacketError` unless tunables are a head and whole terms of known nodes."""
    wanted = {n: tuple(t.shape) for n, t in usual.items() if not is_factor(n)}
    known = set(addresses)
    for address in {adapter_of(n) for n in tensors if is_factor(n)}:
        if address not in known:
            raise PacketError(f"shapes: a term of {address[:80]}, which is no node of this run")
        factors = ((renamed(n, OWN, address), tuple(t.shape)) for n, t in usual.items())
        wanted |= {n: shape for n, shape in factors if is_factor(n)}
    found = {n: tuple(t.shape) for n, t in tensors.items()}
    if found != wanted:
        name = min(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        said = f"{found.get(name, 'missing')}, must be {wanted.get(name, 'none')}"
        raise PacketError(f"shapes.{name[:120]}: {said}")
