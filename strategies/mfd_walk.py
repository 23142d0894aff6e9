"""MFD walk: a model travels from node to node and is trained where it lands.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6. The node that
holds the packet trains on its own data, updates what the packet has seen, and names the next hop
from its own routing table, which adverts filled. The server half is the network: it carries
messages (`mfd_flower.forwarding`). One hop is one transfer node to node (``d2d``), although
Flower's star carries it in two messages (``relay``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.forwarding import (
    FORWARDING_ACTIONS,
    FORWARDING_LINKS,
    Carrier,
    Custody,
    Route,
    held_packet,
)
from mfd_flower.forwarding.admission import (
    HISTORY,
    NOT_TAKEN,
    PARENT,
    VERDICT,
    accepted,
    accuracies,
    not_taken,
    travelling,
)
from mfd_flower.forwarding.arrival import answer, received, taken
from mfd_flower.forwarding.damping import Damping
from mfd_flower.forwarding.holder import notary_of, outgoing
from mfd_flower.forwarding.notary import Notary
from mfd_flower.forwarding.visit import (
    RESIDUAL,
    averaged,
    chosen,
    local_update,
    merged,
    next_header,
    residual_of,
)
from mfd_flower.models.partial import SELECTIONS
from mfd_flower.network import neighbours_of
from mfd_flower.node import Node, initial_tunables
from mfd_flower.packets import CODECS, Packet, changed_since, delta, pack, repack, restored
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.strategy import OwnLoop, build_strategy

OPTIMIZER = "optimizer"


def hop(message: Message, context: Context) -> Message:
    """Verify the arriving packet, train it on this node's data, name its next hop, keep a copy.

    Raises
    ------
    PacketError
        If the packet is not whole or not addressed to this node; nothing is changed then.
    """
    node = Node.of(context)
    walk = build_strategy(node.run)
    assert isinstance(walk, MFDWalk)
    custody, notary = Custody(context.state), notary_of(node, context)
    packet = received(node, context, message.content)
    if (made := answer(context, packet, notary)) is not None:
        return Message(walk.reply(context, packet, made, notary), reply_to=message)
    if packet.kind == "delta":
        packet = restored(packet, held_packet(node, context, packet.walker))
    arrived = packet.decoded()
    try:
        admitted, receipt = taken(node, context, packet, arrived, message.content, notary)
    except NOT_TAKEN as error:
        return Message(not_taken(error), reply_to=message)
    start = admitted.packet
    optimizer = message.content.array_records.get(OPTIMIZER) if start is packet else None
    tensors, others = walk.mixed(admitted.tensors, start, custody, context)
    avoid = notary.dropped() if notary else ()
    header = next_header(node, context, start, walk.route.noise_epsilon, avoid)
    only = chosen(node, tensors, start, walk.select, walk.budget, walk.visit_s)
    trained, samples, optimizer_state = local_update(
        node, tensors, start, tensors_of(optimizer) if optimizer else None, only
    )
    share = walk.share_at(start.hop) * walk.damping.of_labels(node.label_counts, start.seen)
    changes = {
        name: torch.lerp(tensors[name], trained[name], share) if share < 1 else trained[name]
        for name in (trained if tensors is not admitted.tensors else only)
    }
    onward, residual = repack(
        start,
        changes,
        residual_of(context) if walk.codec != "fp32" else None,
        samples=start.samples + samples,
        updated={**start.updated, **dict.fromkeys(changes, start.hop)},
        **header,
    )
    if notary is not None and notary.refused(onward.version):
        # Nothing but what was refused before can be made here: the packet goes on as it came.
        changes = {}
        onward, residual = repack(start, changes, **header)
    if residual:
        context.state[RESIDUAL] = ArrayRecord(residual)
    beside, measured = RecordDict(), {}
    if walk.carry_optimizer:
        beside[OPTIMIZER] = ArrayRecord(optimizer_state)
    if admitted.accuracy is not None and changes:
        measured = accuracies(node, admitted.accuracy, onward.decoded())
        beside[PARENT] = travelling(start, onward, changes)
    if admitted.history.log_norms:
        beside[HISTORY] = ConfigRecord({**admitted.history.fields()})
    if notary is not None:
        notary.sign_version(start, onward, others, measured)
    custody.keep(onward, beside)
    reply = walk.reply(context, packet, onward, notary)
    return Message(RecordDict({**reply, **receipt}), reply_to=message)


class MFDWalk(OwnLoop, Strategy):
    """One or more walkers over all nodes.

    Parameters
    ----------
    run : RunConfig
        Settings of the run.
    policy : str (default: "label-balance")
        How a holder chooses the next hop, a key of `mfd_flower.routing.POLICIES`.
    policy_options : dict, optional
        Options of the policy.
    memory : int (default: 0)
        Nodes most recently left that a packet does not return to while others are there, up to 64.
    advert_hops : int (default: 1)
        Links that an advert crosses.
    advert_every : int (default: 0)
        Tours between two announcements; 0 announces once, at the start.
    noise_epsilon : float (default: 0.0)
        Privacy budget of the label counts that a node lets others know; 0 for exact ones.
    damping_start : float (default: 1.0)
        Share of its update that a node passes on at the first hop; 1 passes on all of it.
    damping_end : float (default: 1.0)
        The share after `damping_tours` tours, reached on a straight line.
    damping_tours : float (default: 2.0)
        Tours (as many hops as nodes) over which the share changes.
    damping_skew : float (default: 0.0)
        Nats of divergence between the node's labels and those the walk has seen, times this, damp
        the update further, to ``exp(-damping_skew * divergence)`` of it.
    average : float (default: 0.0)
        Share of the version that a node sent on at its last visit which it mixes into what
        arrives: a running average of the iterates that costs no byte.
    walkers : int (default: 1)
        Packets under way at once, never two on one node.
    merge : bool (default: False)
        A node averages the arriving walker with the version that another one left here, weighted
        by the samples that each has trained on.
    select : str (default: "all")
        Which tunables a node updates within its budget: ``all``, ``entropy`` or ``least-recent``.
    budget : float (default: 1.0)
        Largest share of the tunables' values that one visit updates.
    visit_s : float (default: 0.0)
        Virtual seconds that a visit may take, which limits the share further; 0 for no limit.
    delta : bool (default: False)
        Ask the next node what it holds and send only what changed since.
    codec : str (default: "fp32")
        How tunables travel: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    gate : float (default: 0.0)
        Accuracy on local data from which a node sends the model on before its epochs are spent.
    carry_optimizer : bool (default: False)
        Send the optimiser's state along, which AdamW's triples the packet with.
    start_node : int (default: 0)
        Index of the node where the first walker begins; others begin evenly spaced behind it.
    ledger : bool (default: False)
        Sign every version into a ledger of which each node has a replica.
    admission : bool (default: False)
        Judge every version on arrival, and go on from its parent if it is refused; an author
        refused twice in a row is left out. Needs the ledger. The parent travels along, so a
        hop may cost one more transfer.

    Attributes
    ----------
    replica : str
        After a run with a ledger: all chains, as lines.
    not_taken : dict
        After a run: reasons why receivers could not take a packet, by walker, hop and source.
    """

    client_actions: ClassVar = {**FORWARDING_ACTIONS, "train.hop": hop}
    links: ClassVar = FORWARDING_LINKS

    def __init__(
        self,
        run: RunConfig,
        policy: str = "label-balance",
        policy_options: dict[str, float | str] | None = None,
        memory: int = 0,
        advert_hops: int = 1,
        advert_every: int = 0,
        noise_epsilon: float = 0.0,
        damping_start: float = 1.0,
        damping_end: float = 1.0,
        damping_tours: float = 2.0,
        damping_skew: float = 0.0,
        average: float = 0.0,
        walkers: int = 1,
        merge: bool = False,
        select: str = "all",
        budget: float = 1.0,
        visit_s: float = 0.0,
        delta: bool = False,
        codec: str = "fp32",
        gate: float = 0.0,
        carry_optimizer: bool = False,
        start_node: int = 0,
        ledger: bool = False,
        admission: bool = False,
    ) -> None:
        nodes = run.data.nodes
        for name, value, words in (
            ("codec", codec, tuple(CODECS)),
            ("select", select, SELECTIONS),
        ):
            if value not in words:
                raise ConfigError(f"options.{name}", value, f"accepted: {', '.join(words)}")
        if not 0 < budget <= 1:
            raise ConfigError("options.budget", budget, "must be above 0 and at most 1")
        if not 0 <= visit_s < math.inf:
            raise ConfigError("options.visit_s", visit_s, "must be at least 0 and finite")
        for name, share in (("gate", gate), ("average", average)):
            if not 0 <= share <= 1:
                raise ConfigError(f"options.{name}", share, "must be from 0 to 1")
        if not 0 <= start_node < nodes:
            raise ConfigError("options.start_node", start_node, f"below {nodes} nodes")
        if type(walkers) is not int or not 1 <= walkers <= max(1, nodes // 2):
            accepted_walkers = f"from 1 to {max(1, nodes // 2)}, half of the nodes"
            raise ConfigError("options.walkers", walkers, accepted_walkers)
        if select == "all" and (budget < 1 or visit_s):
            name, number = ("budget", budget) if budget < 1 else ("visit_s", visit_s)
            raise ConfigError(f"options.{name}", number, "needs select = entropy or least-recent")
        for name, flag in (("ledger", ledger), ("admission", admission)):
            if type(flag) is not bool:
                raise ConfigError(f"options.{name}", flag, "must be true or false")
        if admission and not ledger:
            raise ConfigError("options.admission", admission, "needs ledger = true")
        self.run = run
        self.route = Route(policy, policy_options or {}, memory, advert_hops, noise_epsilon)
        self.advert_every = advert_every
        self.damping = Damping(damping_start, damping_end, damping_tours, damping_skew)
        self.average = average
        self.walkers = walkers
        self.merge = merge
        self.select = select
        self.budget = budget
        self.visit_s = visit_s
        self.delta = delta
        self.codec = codec
        self.gate = gate
        self.carry_optimizer = carry_optimizer
        self.start_node = start_node
        self.ledger = ledger
        self.admission = admission
        self.replica = ""
        self.not_taken: dict[tuple[str, int, str], list[str]] = {}

    def share_at(self, hop: int) -> float:
        """Return the share of its update that is passed on at a walker's hop, from 1.

        Walkers move side by side: one's second hop is hop ``1 + walkers`` of them all.
        """
        return self.damping.at(1 + (hop - 1) * self.walkers, self.run.data.nodes)

    def author_share(self, arrived: Packet) -> float:
        """Return the share of its update that the sender of a packet was to pass on."""
        return self.share_at(arrived.hop - 1)

    def mixed(
        self, arrived: dict[str, Tensor], packet: Packet, custody: Custody, context: Context
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Average what arrives with versions that this node holds; `arrived` itself if none is.

        Returns
        -------
        tensors : dict of str to Tensor
        versions : list of str
            Of other walkers, mixed in.
        """
        tensors = arrived
        if self.average and (own := custody.held(packet.walker)) is not None:
            tensors = averaged(tensors, own.decoded(), self.average)
        return merged(tensors, packet, custody, context) if self.merge else (tensors, [])

    def reply(
        self, context: Context, received: Packet, onward: Packet, notary: Notary | None
    ) -> RecordDict:
        """Return the holder's word to the network: the packet, or what this hop changed in it."""
        content = outgoing(context, onward, notary)
        if self.delta:
            changed = changed_since(onward, onward.hop - 2)
            cut = delta(onward, received.version, changed)
            content = RecordDict({**content, **cut.to_record()})
        return content

    def first_packet(self, node: Node) -> Packet:
        """Return the packet that every walker begins as; any node can make it from the seed."""
        return self.packed(initial_tunables(node.run), node.num_classes, walker=0, ttl=0)

    def packed(self, tensors: Mapping[str, Tensor], classes: int, walker: int, ttl: int) -> Packet:
        """Return a walker's first packet."""
        nodes = self.run.data.nodes
        origin = f"n{(self.start_node + walker * nodes // self.walkers) % nodes}"
        packet, _ = pack(
            tensors,
            packet_id=f"{self.run.seed:024x}{walker:08x}",
            model_id=self.run.model.backbone.partition(":")[0],
            source=origin,
            destination=origin,
            ttl=ttl,
            hop=1,
            gate=self.gate,
            seen=(0.0,) * classes,
            codec=self.codec,
            walker=f"w{walker}",
        )
        return packet

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, Any], MetricRecord | None] | None = None,
    ) -> Result:
        """Carry the packets for `num_rounds` tours in all and evaluate after every hop."""
        if not isinstance(grid, MeteredGrid):
            raise TypeError("a walk needs a MeteredGrid, which knows the nodes' addresses")
        nodes = self.run.data.nodes
        topology = neighbours_of(self.run.network, nodes, self.run.seed)
        carrier = Carrier(grid, topology, timeout, self.delta)

        def announce(sequence: int) -> None:
            carrier.exchange_adverts(self.route.advert_hops, sequence, self.route.noise_epsilon)

        announce(0)
        result = Result(arrays=initial_arrays)
        if evaluate_fn:
            evaluate_fn(0, initial_arrays)
        classes = load_federation(self.run.data, self.run.seed).num_classes
        hops = num_rounds * nodes
        models: dict[str, ArrayRecord] = {}
        for walker in range(self.walkers):
            ttl = (hops + self.walkers - 1 - walker) // self.walkers
            first = self.packed(tensors_of(initial_arrays), classes, walker, ttl)
            models[first.walker] = initial_arrays
            carrier.launch(first)
        made: dict[str, int] = {}
        flown: dict[str, Packet] = {}
        landings = 0
        while carrier.in_flight:
            packet, content = carrier.collect()
            landings += 1
            before, flown[packet.walker] = flown.get(packet.walker), packet
            counted = accepted(before, packet, content) if self.admission else packet
            if counted is not None:
                made[packet.walker] = counted.hop - 1
                models[packet.walker] = result.arrays = ArrayRecord(counted.decoded())
            done = landings if self.admission else sum(made.values())
            if evaluate_fn and (metrics := evaluate_fn(done, list(models.values()))) is not None:
                result.evaluate_metrics_serverapp[done] = metrics
            if packet.ttl > 0 and self.advert_every and done % (self.advert_every * nodes) == 0:
                announce(done)
            if packet.ttl > 0 or (self.admission and VERDICT not in content):
                carrier.launch(packet, content)
        self.not_taken = carrier.not_taken
        if self.ledger:
            self.replica = carrier.ledger(flown.values(), judged=self.admission)
        return result
