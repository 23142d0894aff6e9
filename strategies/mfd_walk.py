"""MFD walk: a model travels from node to node and is trained where it lands.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6. The node that
holds the packet trains on its own data, updates what the packet has seen, and names the next hop
from its own routing table, which adverts filled (`mfd_flower.walk.hop`). The server half is the
network: it carries messages. One hop is one transfer node to node (``d2d``), although Flower's
star carries it in two messages (``relay``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from mfd_flower.config import RunConfig
from mfd_flower.network.world import world_of
from mfd_flower.packets import Packet
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop, Step
from mfd_flower.strategy import Handler
from mfd_flower.walk import MOVED, WALK_ACTIONS, WALK_LINKS, Plan, Relay, plan_of
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
        its ``name``, its own options, and what `mfd_flower.walk.plan.Policy` has besides.
    walkers : int (default: 1)
        Packets under way at once, never two on one node.
    traits : table (default: none)
        What else happens on a visit, by name: a table of options each, see ``mfd traits``.
    """

    moved: ClassVar = MOVED

    def __init__(
        self,
        run: RunConfig,
        policy: str | Mapping[str, Any] = "label-balance",
        walkers: int = 1,
        traits: Mapping[str, Any] = {},
    ) -> None:
        self.run = run
        self.plan = Plan.read(run, policy, walkers, traits)
        self.admission = self.plan.judges
        self.not_taken: dict[tuple[str, int, str], list[str]] = {}
        self.replica = ""

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
        plan, nodes = self.plan, self.run.data.nodes
        relay = Relay(grid, plan, world_of(self.run.network, nodes, self.run.seed), timeout)
        relay.announce(0)
        yield Step(0, arrays)
        hops, start = num_rounds * nodes, tensors_of(arrays)
        models: dict[str, ArrayRecord] = {}
        for walker in range(plan.walkers):
            ttl = (hops + plan.walkers - 1 - walker) // plan.walkers
            first = plan.first_packet(self.run, start, walker, ttl)
            models[first.walker] = arrays
            relay.launch(first)
        made, landed, landings = dict[str, int](), dict[str, Packet](), 0
        while relay.in_flight:
            packet, content = relay.collect()
            landings += 1
            before, landed[packet.walker] = landed.get(packet.walker), packet
            proven: Packet | None = packet
            for trait in plan.traits:
                proven = proven and trait.proven(before, proven, content)
            if proven is not None:
                made[packet.walker] = proven.hop - 1
                models[packet.walker] = arrays = ArrayRecord(proven.decoded())
            done = landings if plan.judges else sum(made.values())
            yield Step(done, arrays, list(models.values()))
            every = plan.policy.advert_every * nodes
            if packet.ttl > 0 and every and done % every == 0:
                relay.announce(done)
            if packet.ttl > 0 or (plan.judges and VERDICT not in content):
                relay.launch(packet, content)
        self.not_taken = relay.not_taken
        for trait in plan.traits:
            vars(self).update(trait.finish(relay, list(landed.values())))
