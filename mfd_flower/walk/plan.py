"""What every node and the network know of a walk before it begins: policy, walkers, traits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.node import initial_tunables
from mfd_flower.packets import Packet, pack
from mfd_flower.packets.members import MOST_MEMBERS
from mfd_flower.routing import POLICIES, check_options, policy_options
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


DRAWN = ("random", "round-robin", "metropolis")
"""Policies that come to every node by themselves."""
MEMORY = 64
"""All that a packet remembers."""


@dataclass(frozen=True)
class Policy:
    """A next-hop policy with its options, and the settings of the adverts that it chooses by."""

    name: str = "label-balance"
    """A key of `mfd_flower.routing.POLICIES`."""
    memory: int = bounded(0, 0, 64)
    """Nodes most recently left that a packet does not return to while others are there. Left out,
    64 for policies that rank nodes, which return to the same few without; 0 for those that draw."""
    tour: bool = False
    """Return to no node before all have been visited: a packet carries a bit a node. Left out, so
    among more than 64 nodes for policies that rank them: those would come to the same 65 alone."""
    start_node: int = bounded(0, 0)
    """Index of the node where the first walker begins; others begin evenly spaced behind it."""
    advert_hops: int = bounded(1, 0, 16)
    """Links that an advert crosses; at 0 nobody announces anything, and who holds a packet knows
    its own links alone."""
    probes: int = bounded(0, 0, 64)
    """Neighbours that a holder asks for their adverts before it chooses; where nobody announces
    anything (`advert_hops` 0) it knows no others."""
    advert_every: int = bounded(0, 0)
    """Tours between two announcements; 0 announces once, at the start."""
    advert_lifetime_s: float = bounded(0.0, 0.0)
    """Virtual seconds for which an advert holds; 0 until a newer one comes."""
    noise_epsilon: float = bounded(0.0, 0.0)
    """Privacy budget of the label counts that a node lets others know; 0 for exact ones."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the policy takes, as keyword arguments of its function."""

    @classmethod
    def read(cls, value: object, nodes: int) -> Policy:
        """Build a policy from its name, or from a table of its name, these settings and its own."""
        table = value if isinstance(value, Mapping) else {"name": value}
        name = table.get("name", cls.name)
        if not isinstance(name, str) or name not in POLICIES:
            raise ConfigError("options.policy", name, f"accepted: {', '.join(POLICIES)}")
        own = [part.name for part in fields(cls) if part.name != "options"]
        accepted = [*own, *policy_options(name)]
        if strange := [key for key in table if key not in accepted]:
            said = f"accepted: {', '.join(accepted)}"
            raise ConfigError(f"options.policy.{strange[0]}", table[strange[0]], said)
        settings = {key: table[key] for key in own if key in table}
        ranks = name not in DRAWN
        many = MEMORY < nodes <= MOST_MEMBERS
        settings.setdefault("tour", ranks and "memory" not in settings and many)
        settings.setdefault("memory", MEMORY if ranks else 0)
        policy: Policy = build(cls, settings, "options.policy.")
        if policy.start_node >= nodes:
            said = f"must be below {nodes}, the number of nodes"
            raise ConfigError("options.policy.start_node", policy.start_node, said)
        if policy.tour and nodes > MOST_MEMBERS:
            said = f"false with more than {MOST_MEMBERS} nodes"
            raise ConfigError("options.policy.tour", True, said)
        options = {key: value for key, value in table.items() if key not in own}
        policy = replace(policy, options=check_options(name, options, "options.policy."))
        policy._check_told()
        return policy

    @property
    def by_task(self) -> bool:
        """Whether nodes tell what their data are for."""
        return bool(self.options.get("task"))

    @property
    def by_loss(self) -> bool:
        """Whether nodes tell how the last model that came did on their data."""
        return bool(self.options.get("loss"))

    @property
    def by_features(self) -> bool:
        """Whether nodes tell what their pictures are like."""
        return self.options.get("by") == "features"

    def _check_told(self) -> None:
        """Refuse what nodes could not tell in time, and noise that what they tell would undo."""
        if self.by_loss and not (self.advert_every or self.probes):
            said = "needs `advert_every` or `probes`: before the walk there is no loss to tell"
            raise ConfigError("options.policy.loss", True, said)
        if self.noise_epsilon and (self.by_loss or self.by_features):
            said = "0 with `loss` or by `features`, which are told without noise"
            raise ConfigError("options.policy.noise_epsilon", self.noise_epsilon, said)


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
        return cls(nodes, Policy.read(policy, nodes), walkers, read_traits(traits, own))

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
