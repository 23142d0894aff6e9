"""MFD walk: a model travels from node to node and is trained where it lands.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6. The node that
holds the packet trains on its own data, updates what the packet has seen, and names the next hop
from its own routing table, which adverts filled (`mfd_flower.walk.hop`). The server half is the
network: it carries messages. One hop is one transfer node to node (``d2d``), although Flower's
star carries it in two messages (``relay``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from mfd_flower.config import RunConfig
from mfd_flower.network.worlds import world_of
from mfd_flower.packets import Packet
from mfd_flower.records import joined, part_of, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop, Step
from mfd_flower.strategy import Handler
from mfd_flower.walk import MOVED, WALK_ACTIONS, WALK_LINKS, Plan, Relay, plan_of
from mfd_flower.walk.course import Course
from mfd_flower.walk.custody import VERDICT


class MFDWalk(OwnLoop, Strategy):
    """One or more walkers over all nodes.

    After a run `not_taken` has the reasons why receivers could not take a packet, by walker, hop
    and source; with the trait ``ledger`` `replica` has all chains, as lines. `admission` says
    whether receivers may refuse a version.

    Parameters
    ----------
    run : RunConfig
        Settings of the run.
    policy : str or table (default: "label-balance")
        How a holder chooses the next hop: a key of `mfd_flower.routing.POLICIES`, or a table with
        its ``name``, its own options, and what `mfd_flower.routing.Policy` has besides.
    walkers : int (default: 1)
        Packets under way at once, never two on one node. Several have the trait ``merge``: at the
        end they meet, and there is one model.
    traits : table (default: none)
        What else happens on a visit, by name: a table of options each, see ``mfd traits``.
    """

    moved: ClassVar[Mapping[str, str]] = MOVED
    self_checked: ClassVar = True
    """Receivers find out for themselves what was damaged on its way."""

    def __init__(
        self,
        run: RunConfig,
        policy: str | Mapping[str, Any] = "label-balance",
        walkers: int = 1,
        traits: Mapping[str, Any] = {},
    ) -> None:
        self.run = run
        self.plan = self.plan_for(run, policy, walkers, traits, **self.options)
        self.admission = self.plan.judges
        self.not_taken: dict[tuple[str, int, str], list[str]] = {}
        self.replica = ""
        self.course: Course | None = None

    options: Mapping[str, Any] = MappingProxyType({})
    """What a plan of another walk needs besides."""

    @staticmethod
    def plan_for(
        run: RunConfig,
        policy: object = "label-balance",
        walkers: object = 1,
        traits: object = {},
        **options: object,
    ) -> Plan:
        """Return the plan of these options, on every node too."""
        if isinstance(traits, Mapping) and walkers != 1:
            traits = {"merge": {}, **traits}
        return Plan.read(run, policy, walkers, traits)

    @staticmethod
    def own_models(run: RunConfig) -> str:
        """Tell which models of their own a trait lets nodes have, see `Trait.own_models`."""
        return "".join(trait.own_models for trait in plan_of(run).traits)

    @staticmethod
    def client_actions(run: RunConfig) -> dict[str, Handler]:
        """Return the client half: the hop, and what traits answer."""
        actions = dict(WALK_ACTIONS)
        for trait in plan_of(run).traits:
            actions |= trait.actions
        return actions

    @staticmethod
    def links(run: RunConfig) -> dict[str, str]:
        """Return which messages are transfers between nodes."""
        links = dict(WALK_LINKS)
        for trait in plan_of(run).traits:
            links |= trait.links
        return links

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Carry the packets for `num_rounds` tours in all; a step is a hop."""
        world = world_of(self.run.network, self.run.data.nodes, self.run.seed)
        relay = Relay(grid, self.plan, world, timeout)
        if self.course is None:
            self.course = course = Course()
            relay.announce(0)
            yield Step(0, arrays)
            self._launch_first(relay, course, arrays, num_rounds * self.run.data.nodes)
        else:
            course = self.course
            relay.load_state_dict(self._kept)
            self._send_on(relay, course)
        self._relay = relay
        while relay.in_flight:
            self._land(relay, course)
            shown = self.shown(course)
            moved = course.moved if course.moved in shown else next(iter(shown))
            yield Step(course.done, shown[moved], shown if len(shown) > 1 else {})
            self._send_on(relay, course)
        self.not_taken = relay.not_taken
        for trait in self.plan.traits:
            vars(self).update(trait.finish(relay, list(course.landed.values())))

    def model_of(self, packet: Packet, content: RecordDict) -> ArrayRecord:
        """Return the model that a packet stands for, which landed in a message."""
        return ArrayRecord(dict(self.plan.model_of(self.run, packet, content)))

    def shown(self, course: Course) -> Mapping[str, ArrayRecord]:
        """Return the models that the walk has now, by walker; of those that met, their average."""
        met = [p for p in course.landed.values() if not p.ttl and p.source == p.meeting]
        # One a task: walkers of several tasks stay apart.
        last = {packet.task: packet.walker for packet in sorted(met, key=lambda p: p.samples)}
        hidden = {packet.walker for packet in met} - set(last.values())
        return {name: model for name, model in course.models.items() if name not in hidden}

    def _launch_first(self, relay: Relay, course: Course, arrays: ArrayRecord, hops: int) -> None:
        """Send the first packet of each walker, so many hops to go between them."""
        start, walkers = tensors_of(arrays), self.plan.walkers
        for walker in range(walkers):
            ttl = (hops + walkers - 1 - walker) // walkers
            first = self.plan.first_packet(self.run, start, walker, ttl)
            course.models[first.walker] = arrays
            relay.launch(first)

    def _land(self, relay: Relay, course: Course) -> None:
        """Take what the next receiver hands on, and count it if it is a new version."""
        packet, content = relay.collect()
        course.landings += 1
        before, course.landed[packet.walker] = course.landed.get(packet.walker), packet
        proven: Packet | None = packet
        for trait in self.plan.traits:
            proven = proven and trait.proven(before, proven, content)
        if proven is not None:
            course.made[packet.walker] = proven.hop - 1
            course.models[packet.walker] = self.model_of(proven, content)
            course.moved = packet.walker
        course.moved = course.moved or packet.walker
        course.done = course.landings if self.plan.judges else sum(course.made.values())
        course.onward = packet, content

    def _send_on(self, relay: Relay, course: Course) -> None:
        """Carry on the packet that landed last, after another announcement if one is due."""
        packet, content = course.onward
        every = self.plan.policy.advert_every * self.run.data.nodes
        if packet.ttl > 0 and every and course.done % every == 0:
            relay.announce(course.done)
        unjudged = self.plan.judges and VERDICT not in content and packet.version != packet.parent
        if packet.ttl > 0 or unjudged:
            relay.launch(packet, content)

    def state_dict(self) -> RecordDict:
        """Return where all packets are, after the step that was yielded last."""
        assert self.course is not None
        return joined({"course": self.course.state_dict(), "relay": self._relay.state_dict()})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that step."""
        self.course = Course.load(part_of(state, "course"))
        self._kept = part_of(state, "relay")
