"""What every node and the network know of a walk before it begins: policy, walkers, traits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.network.worlds import world_of
from mfd_flower.node import initial_tunables
from mfd_flower.packets import Packet, pack
from mfd_flower.routing import Policy
from mfd_flower.strategy import find_strategy
from mfd_flower.walk.trait import Trait
from mfd_flower.walk.traits import read_traits

MOVED = {
    "policy_options": "options.policy = { name = ..., OPTION = ... }",
    **{
        option: f"options.policy.{option}"
        for option in ("memory", "advert_hops", "advert_every", "noise_epsilon", "start_node")
    },
    **{f"damping_{part}": f"options.traits.damping.{part}" for part in ("start", "end", "tours")},
    "select": "options.traits.partial.by",
    "budget": "options.traits.partial.budget",
    "visit_s": "options.traits.partial.visit_s",
    "codec": "options.traits.codec.name",
    "gate": "options.traits.gate.accuracy",
    "carry_optimizer": "options.traits.optimizer = {}",
    **{
        trait: f"options.traits.{trait} = {{}}"
        for trait in ("merge", "delta", "ledger", "admission")
    },
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
    def read(
        cls,
        run: RunConfig,
        policy: object = "label-balance",
        walkers: object = 1,
        traits: object = {},
        own: Mapping[str, Trait] = {},
    ) -> Plan:
        """Build a plan from the options; raises `ConfigError` for the first not acceptable.

        `own` are traits that the strategy always has.
        """
        nodes = run.data.nodes
        most = max(1, nodes // 2)
        if type(walkers) is not int or not 1 <= walkers <= most:
            raise ConfigError("options.walkers", walkers, f"from 1 to {most}, half of the nodes")
        plan = cls(nodes, Policy.read(policy, nodes), walkers, read_traits(traits, own))
        if plan.policy.area and plan.walkers > 1:
            raise ConfigError("options.policy.area", True, "accepted with one walker alone")
        near = [type(trait).__name__ for trait in plan.traits if "d2d" in trait.links.values()]
        if plan.policy.forward and near:
            said = f"false with the trait {near[0].lower()}, which speaks to neighbours alone"
            raise ConfigError("options.policy.forward", True, said)
        for trait in plan.traits:
            trait.check(run, plan)
        return plan

    @property
    def judges(self) -> bool:
        """Whether receivers may refuse a version."""
        return any(trait.judges for trait in self.traits)

    def share(self, hop: int) -> float:
        """Return the share of its update that a node was to pass on at a walker's hop, from 1."""
        return math.prod(trait.share(hop, self) for trait in self.traits)

    def first_packet(
        self, run: RunConfig, tensors: Mapping[str, Tensor], walker: int = 0, ttl: int = 0
    ) -> Packet:
        """Return a walker's first packet, as its origin sends it to itself."""
        index = (self.policy.start_node + walker * self.nodes // self.walkers) % self.nodes
        header: Mapping[str, Any] = {
            "packet_id": f"{run.seed:024x}{walker:08x}",
            "model_id": run.model.backbone.partition(":")[0],
            "source": f"n{index}",
            "destination": f"n{index}",
            "ttl": ttl,
            "hop": 1,
            "seen": (0.0,) * federation_of(run).num_classes,
            "walker": f"w{walker}",
        }
        if self.policy.area:
            world = world_of(run.network, self.nodes, run.seed)
            header = {**header, "area": world.area(f"n{index}", 0.0)}
        if self.policy.by_task:
            header = {**header, "task": federation_of(run).task(index)}
        for trait in reversed(self.traits):
            tensors, header = trait.begin(run, tensors, header)
        return pack(tensors, **header)[0]

    def model_of(self, run: RunConfig, packet: Packet, beside: RecordDict) -> Mapping[str, Tensor]:
        """Return the tunables that a full packet stands for, with what travels beside it."""
        tensors: Mapping[str, Tensor] = packet.decoded()
        for trait in self.traits:
            tensors = trait.model(run, packet, tensors, beside)
        return tensors


@functools.lru_cache(maxsize=64)
def plan_of(run: RunConfig) -> Plan:
    """Return the plan of a run, read once a process."""
    strategy = find_strategy(run.strategy.name)
    plan_for: Callable[..., Plan] = getattr(strategy, "plan_for", Plan.read)
    return plan_for(run, **run.strategy.keywords())


@functools.lru_cache(maxsize=8)
def version_zero(run: RunConfig) -> Packet:
    """Return what all walkers begin as; any node makes it from the settings."""
    return plan_of(run).first_packet(run, initial_tunables(run))
