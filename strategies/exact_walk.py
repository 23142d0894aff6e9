"""Exact walk: a packet of sums goes from node to node, and the same head comes of every route.

Beyond the whitepaper, whose packets carry models, ``W0 + A1 B1 + A2 B2 ...``: here they carry what
a closed form needs, ``G0 + G1 + G2 ...`` (the sums of Fed3R, arXiv 2406.01116, and AFL, arXiv
2405.16240, where a server collects them). Each node adds its samples once and only forwards after
that; who was added stands in the packet. So the head is that of all included data in one place, at
any skew, in any order, with any number of walkers.

What the sums are of may be tuned first, as RanPAC does (McDonnell et al. 2023, arXiv 2307.02251):
in a session of ordinary visits the packet carries prompts or LoRA, which are then frozen and travel
beside the sums to each node that lacks them.

A holder does with sums what it does with a model, `mfd_flower.walk.hop`;
`mfd_flower.walk.summing` stands in the place of training and codec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

from flwr.app import ArrayRecord, RecordDict

from mfd_flower.checks import ConfigError, build
from mfd_flower.config import RunConfig
from mfd_flower.network.worlds import world_of
from mfd_flower.packets import Packet
from mfd_flower.packets.members import members_in
from mfd_flower.records import joined, part_of
from mfd_flower.walk.course import Course
from mfd_flower.walk.plan import Plan
from mfd_flower.walk.relay import Relay
from mfd_flower.walk.session import FROZEN
from mfd_flower.walk.summing import Summing
from mfd_flower.walk.tours import Tour
from mfd_flower.walk.traits.mask import Mask
from mfd_flower.walk.traits.noise import Noise
from strategies.mfd_walk import MFDWalk

POLICY = {"name": "round-robin", "advert_hops": 0}
HOPS = 4
"""Most hops for each node and round, of which one adds the node."""
MOST_JUDGED = 2
"""Walkers with admission: where they meet, a version has two parents in the ledger at most."""


class ExactWalk(MFDWalk):
    """Walkers that add up sums.

    Parameters
    ----------
    run : RunConfig
        Settings of the run.
    policy : str or table (default: round-robin over a holder's own links)
        As of `mfd-walk`. No choice changes the sums, and without adverts none costs a byte.
    walkers : int (default: 1)
        Packets under way at once, each with its share of the nodes. They meet where the first one
        begins, and are added up there.
    traits : table (default: none)
        Of those of `mfd-walk`, `ledger` and `admission`; and `contributions`, `mask`, `noise`.
    features : table (default: 4 bits, cut off at 3 standard deviations)
        How features become whole numbers: ``bits``, ``clip``, ``projection``.
    head : str (default: "ridge")
        A regression on the labels, or the "discriminant" of a Gaussian a class with one
        covariance, where all classes are as frequent.
    session : int (default: 0)
        Visits that tune prompts or LoRA first, as `mfd-walk` does; then these are frozen.
    codec : str (default: "fp16")
        How they travel.
    """

    moved: ClassVar[Mapping[str, str]] = MappingProxyType({})
    carries_sums: ClassVar = True
    """Malicious nodes may lie about sums, and about who is in them."""

    def __init__(
        self,
        run: RunConfig,
        policy: str | Mapping[str, Any] = POLICY,
        walkers: int = 1,
        traits: Mapping[str, Any] = {},
        features: Mapping[str, Any] = {},
        head: str = "ridge",
        session: int = 0,
        codec: str = "fp16",
    ) -> None:
        self.options = {"features": features, "head": head, "session": session, "codec": codec}
        self._frozen = RecordDict()
        super().__init__(run, policy, walkers, traits)

    @staticmethod
    def plan_for(
        run: RunConfig,
        policy: object = POLICY,
        walkers: object = 1,
        traits: object = {},
        **options: object,
    ) -> Plan:
        """Return the plan of these options."""
        first = Plan.read(run, policy, walkers, {})
        told = {"tour": Tour(first.nodes, first.walkers, first.policy.start_node), **options}
        summing: Summing = build(Summing, told, "options.")
        tuned = ("prompts", "lora") if summing.session else ("head",)
        if run.model.tune not in tuned:
            with_it = "with a session" if summing.session else "without a session"
            accepted = f"accepted {with_it}: {', '.join(tuned)}"
            raise ConfigError("model.tune", run.model.tune, accepted)
        if summing.session and first.walkers > 1:
            raise ConfigError("options.session", summing.session, "accepted with one walker alone")
        plan = Plan.read(run, policy, walkers, traits, {"summing": summing})
        if noise := next((trait for trait in plan.traits if isinstance(trait, Noise)), None):
            if summing.head != "ridge":
                raise ConfigError("options.head", summing.head, "accepted with noise: ridge")
            summing = replace(summing, noise=noise)
            plan = Plan.read(run, policy, walkers, traits, {"summing": summing})
        # Who is left stands in bitmaps of its own.
        plan = replace(plan, policy=replace(plan.policy, tour=False))
        world, start = world_of(run.network, run.data.nodes, run.seed), plan.policy.start_node
        if not plan.policy.area and (alone := world.out_of_reach(f"n{start}")):
            named = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            said = "no links lead there from the start; exact-walk adds up all nodes"
            raise ConfigError("network", named, said)
        if plan.judges and summing.session:
            accepted = "accepted with admission: 0"
            raise ConfigError("options.session", summing.session, accepted)
        if plan.judges and first.walkers > MOST_JUDGED:
            accepted = f"accepted with admission: up to {MOST_JUDGED}"
            raise ConfigError("options.walkers", first.walkers, accepted)
        if first.walkers > 1 and any(isinstance(trait, Mask) for trait in plan.traits):
            raise ConfigError("options.traits.mask", {}, "accepted with one walker alone")
        return plan

    def _send_on(self, relay: Relay, course: Course) -> None:
        """Carry on the packet that landed last; who judged it last ends the walk."""
        if course.onward[0].ttl > 0:
            super()._send_on(relay, course)

    def model_of(self, packet: Packet, content: RecordDict) -> ArrayRecord:
        """Return the model that a packet's sums make with what was frozen, seen now or before."""
        if FROZEN in content:
            self._frozen = RecordDict({FROZEN: content[FROZEN]})
        return super().model_of(packet, RecordDict({**content, **self._frozen}))

    def state_dict(self) -> RecordDict:
        """Return where all packets are, and what was frozen."""
        return joined({"walk": super().state_dict(), "seen": self._frozen})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that step."""
        super().load_state_dict(part_of(state, "walk"))
        self._frozen = part_of(state, "seen")

    def _launch_first(self, relay: Relay, course: Course, arrays: ArrayRecord, hops: int) -> None:
        """Give each walker hops enough to forward where not all are neighbours.

        It ends when nobody is left.
        """
        hops = HOPS * hops + max(0, self.options["session"])
        super()._launch_first(relay, course, arrays, hops * self.plan.walkers)

    def shown(self, course: Course) -> Mapping[str, ArrayRecord]:
        """Leave out walkers whose sums are in another one's."""
        sums = {w: members_in(p.included, self.plan.nodes) for w, p in course.landed.items()}
        return {
            walker: model
            for walker, model in course.models.items()
            if not any(sums.get(walker, frozenset()) < other for other in sums.values())
        }
