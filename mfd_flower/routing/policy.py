"""How a walk chooses its next hops: a policy's name, its options, and what it chooses by.

A holder decides by these alone, in a run as in a simulation of routes without training.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.packets.members import MOST_MEMBERS, bitmap, members_in
from mfd_flower.routing.candidate import Candidate
from mfd_flower.routing.policies import POLICIES, check_options, choose, policy_options
from mfd_flower.routing.trail import Trail

DRAWN = ("random", "round-robin", "metropolis")
"""Policies that come to every node by themselves."""
BY_DEGREE = ("metropolis",)
"""Policies that choose by how many neighbours nodes have."""
BY_RATE = ("fastest", "weighted")
"""Policies that choose by the rates of links."""
MEMORY = 64
"""All that a packet remembers."""
CHOICE, PROBES = 1, 4
"""Purposes of the generators that a choice, and whom to ask, are drawn from."""


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
    forward: bool = False
    """A packet for a node further away is passed on unopened by those between, which do not train.
    Else it is trained at every stop, and the next holder chooses anew."""
    area: bool = False
    """Stay among the nodes of the area where the walk begins, a collaboration set; where the world
    has areas."""
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
    def draws(self) -> bool:
        """Whether chance may decide."""
        return self.name in DRAWN

    @property
    def by_degree(self) -> bool:
        """Whether it chooses by how many neighbours nodes have."""
        return self.name in BY_DEGREE

    @property
    def by_rate(self) -> bool:
        """Whether it chooses by the rates of links."""
        return self.name in BY_RATE

    @property
    def by_features(self) -> bool:
        """Whether nodes tell what their pictures are like."""
        return self.options.get("by") == "features"

    def _check_told(self) -> None:
        """Refuse what nodes could not tell in time, and noise that what they tell would undo."""
        if self.by_loss and not (self.advert_every or self.probes):
            said = "needs `advert_every` or `probes`: before the walk there is no loss to tell"
            raise ConfigError("options.policy.loss", True, said)
        if self.forward and self.advert_hops < 2:
            said = "false with `advert_hops` below 2: nobody further away is known"
            raise ConfigError("options.policy.forward", True, said)
        if self.noise_epsilon and (self.by_loss or self.by_features):
            said = "0 with `loss` or by `features`, which are told without noise"
            raise ConfigError("options.policy.noise_epsilon", self.noise_epsilon, said)

    def asks(
        self,
        near: Sequence[str],
        recent: Collection[str],
        known: Container[str],
        rng: np.random.Generator,
    ) -> list[str]:
        """Draw which neighbours a holder asks for their adverts: not those visited lately.

        Of `known` ones it has an advert, and asks again only for what changes: losses.
        """
        again = near if self.by_loss else ()
        fresh = [a for a in near if a not in recent and a not in known] or again
        drawn = rng.permutation(len(fresh))[: self.probes]
        return [fresh[place] for place in sorted(drawn)]

    def chosen(
        self,
        here: Candidate,
        known: Sequence[Candidate],
        recent: frozenset[str],
        seen: Sequence[float],
        rng: np.random.Generator,
        hop: int,
        task: str = "",
        trail: Trail | None = None,
        near: Sequence[str] = (),
    ) -> str:
        """Choose among the nodes that a holder knows, at least one; see `routing.choose`.

        To those of `recent` it does not go while others are there, and to another task's nodes
        only if there are no others at all. In a tour that has come to all of `near`, who is in
        reach, and all known, `trail` says where the others may be.
        """
        known = [c for c in known if not task or c.task in ("", task)] or known
        if trail is not None and near and recent.issuperset({*near, *(c.address for c in known)}):
            return trail.onward(near, hop)
        # With every neighbour visited of late, the one left longest ago is the freshest.
        oldest = min(candidate.last_visit for candidate in known)
        fresh = [c for c in known if c.address not in recent] or [
            c for c in known if c.last_visit == oldest
        ]
        return choose(self.name, here, fresh, seen, rng, task, **self.options)

    def recent(self, visited: Sequence[str], toured: str) -> frozenset[str]:
        """Return who is not visited again while others are there."""
        if self.tour:
            return members_in(toured, MOST_MEMBERS, "toured")
        return frozenset(visited[-self.memory :] if self.memory else ())

    def toured(self, before: str, address: str, nodes: int, among: int | None = None) -> str:
        """Return the bitmap of who was visited in a tour with this node; of nobody if all were.

        All are the `nodes`, or so many `among` them.
        """
        if not self.tour:
            return ""
        members = members_in(before, nodes, "toured") | {address}
        return bitmap(members) if len(members) < (nodes if among is None else among) else ""
