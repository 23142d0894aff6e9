"""What every node and the network know of a walk before it begins: policy, walkers, traits."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.node import initial_tunables
from mfd_flower.packets import Packet, pack
from mfd_flower.walk.policy import Policy
from mfd_flower.walk.trait import Handler, Trait
from mfd_flower.walk.traits import read_traits
from mfd_flower.walk.traits.codec import Codec

MOVED = {
    "policy_options": "options.policy = { name = ..., OPTION = ... }",
    "memory": "options.policy.memory",
    "advert_hops": "options.policy.advert_hops",
    "advert_every": "options.policy.advert_every",
    "noise_epsilon": "options.policy.noise_epsilon",
    "start_node": "options.policy.start_node",
    "damping_start": "options.traits.damping.start",
    "damping_end": "options.traits.damping.end",
    "damping_tours": "options.traits.damping.tours",
    "merge": "options.traits.merge = {}",
    "select": "options.traits.partial.by",
    "budget": "options.traits.partial.budget",
    "visit_s": "options.traits.partial.visit_s",
    "delta": "options.traits.delta = {}",
    "codec": "options.traits.codec.name",
    "gate": "options.traits.gate.accuracy",
    "carry_optimizer": "options.traits.optimizer = {}",
    "ledger": "options.traits.ledger = {}",
    "admission": "options.traits.admission = {}",
}
"""Where options of version 0.1 are now."""


@dataclass(frozen=True)
class Plan:
    """A walk's policy, its number of walkers, and its traits in the order of their layers."""

    nodes: int
    policy: Policy
    walkers: int
    traits: tuple[Trait, ...]

    @classmethod
    def read(cls, run: RunConfig, policy: object, walkers: object, traits: object) -> Plan:
        """Build the plan of a run from the options of its strategy.

        Raises
        ------
        ConfigError
            For the first option that is not acceptable.
        """
        nodes = run.data.nodes
        most = max(1, nodes // 2)
        if type(walkers) is not int or not 1 <= walkers <= most:
            raise ConfigError("options.walkers", walkers, f"from 1 to {most}, half of the nodes")
        return cls(nodes, Policy.read(policy, nodes), walkers, read_traits(traits))

    @property
    def judges(self) -> bool:
        """Whether receivers may refuse a version."""
        return any(trait.judges for trait in self.traits)

    @property
    def actions(self) -> dict[str, Handler]:
        """Message types of the traits with their handlers."""
        return {kind: act for trait in self.traits for kind, act in trait.actions.items()}

    @property
    def links(self) -> dict[str, str]:
        """Message types of the traits with the link that each stands for."""
        return {kind: link for trait in self.traits for kind, link in trait.links.items()}

    @property
    def codec(self) -> str:
        """How tunables travel."""
        return next(trait.name for trait in self.traits if isinstance(trait, Codec))

    def share(self, hop: int) -> float:
        """Return the share of its update that a node was to pass on at a walker's hop, from 1."""
        share = 1.0
        for trait in self.traits:
            share *= trait.share(hop, self)
        return share

    def origin(self, walker: int) -> str:
        """Return the node where a walker begins."""
        return f"n{(self.policy.start_node + walker * self.nodes // self.walkers) % self.nodes}"

    def first_packet(
        self, run: RunConfig, tensors: Mapping[str, Tensor], walker: int = 0, ttl: int = 0
    ) -> Packet:
        """Return a walker's first packet, as its origin sends it to itself."""
        classes = load_federation(run.data, run.seed).num_classes
        packet, _ = pack(
            tensors,
            packet_id=f"{run.seed:024x}{walker:08x}",
            model_id=run.model.backbone.partition(":")[0],
            source=self.origin(walker),
            destination=self.origin(walker),
            ttl=ttl,
            hop=1,
            seen=(0.0,) * classes,
            codec=self.codec,
            walker=f"w{walker}",
        )
        return packet


@functools.lru_cache(maxsize=64)
def plan_of(run: RunConfig) -> Plan:
    """Return the plan of a run, read once a process."""
    options = run.strategy.keywords()
    return Plan.read(
        run,
        options.get("policy", Policy.name),
        options.get("walkers", 1),
        options.get("traits", {}),
    )


@functools.lru_cache(maxsize=8)
def version_zero(run: RunConfig) -> Packet:
    """Return what all walkers begin as; any node makes it from the settings."""
    return plan_of(run).first_packet(run, initial_tunables(run))
