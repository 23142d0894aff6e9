"""How a holder chooses the next hop, and what nodes announce so that it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.routing import POLICIES, policy_options


@dataclass(frozen=True)
class Policy:
    """A next-hop policy with its options, and the settings of the adverts that it chooses by."""

    name: str = "label-balance"
    """A key of `mfd_flower.routing.POLICIES`."""
    memory: int = bounded(0, 0, 64)
    """Nodes most recently left that a packet does not return to while others are there."""
    start_node: int = bounded(0, 0)
    """Index of the node where the first walker begins; others begin evenly spaced behind it."""
    advert_hops: int = bounded(1, 1, 16)
    """Links that an advert crosses."""
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
        policy: Policy = build(cls, settings, "options.policy.")
        if policy.start_node >= nodes:
            said = f"must be below {nodes}, the number of nodes"
            raise ConfigError("options.policy.start_node", policy.start_node, said)
        return replace(policy, options={k: v for k, v in table.items() if k not in own})
