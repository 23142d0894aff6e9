"""A node's part in forwarding: the next hop from its own table, and packets in its custody.

The whitepaper (section 2.6) lets the packet choose its next hop from live information. A strategy
that forwards packets adds `FORWARDING_ACTIONS` to its client half and is a `Forwarding`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.forwarding.admission import PARENT
from mfd_flower.forwarding.announce import ANNOUNCE_ACTIONS, keep_table, routing_table
from mfd_flower.forwarding.custody import Custody
from mfd_flower.forwarding.heads import SHOWN, shown
from mfd_flower.forwarding.notary import LEDGER, RECEIPT, Notary, arrived_chain
from mfd_flower.node import Node
from mfd_flower.packets import Packet, PacketError, changed_since, delta
from mfd_flower.records import integer, text, texts
from mfd_flower.routing import POLICIES, Candidate, choose, policy_options
from mfd_flower.strategy import build_strategy

MAX_MEMORY = 64
MAX_HOPS = 16


@dataclass(frozen=True)
class Route:
    """How a holder chooses the next hop.

    Raises
    ------
    ConfigError
        If the policy does not exist or does not take an option.
    """

    policy: str = "label-balance"
    options: Mapping[str, float | str] = field(default_factory=dict)
    memory: int = 0
    """Nodes most recently left that a packet does not return to while others are there."""
    advert_hops: int = 1
    """Links that an advert crosses."""
    noise_epsilon: float = 0.0
    """Privacy budget of the label counts that a node lets others know; 0 for exact ones."""

    def __post_init__(self) -> None:
        if not isinstance(self.policy, str) or self.policy not in POLICIES:
            raise ConfigError("options.policy", self.policy, f"accepted: {', '.join(POLICIES)}")
        accepted = policy_options(self.policy)
        for name, value in self.options.items():
            if name not in accepted:
                names = ", ".join(accepted) or "none"
                raise ConfigError(f"options.policy_options.{name}", value, f"accepted: {names}")
        if type(self.memory) is not int or not 0 <= self.memory <= MAX_MEMORY:
            raise ConfigError("options.memory", self.memory, f"a whole number up to {MAX_MEMORY}")
        if type(self.advert_hops) is not int or not 1 <= self.advert_hops <= MAX_HOPS:
            raise ConfigError(
                "options.advert_hops", self.advert_hops, f"a whole number from 1 to {MAX_HOPS}"
            )
        if not 0 <= self.noise_epsilon < float("inf"):
            raise ConfigError("options.noise_epsilon", self.noise_epsilon, "at least 0 and finite")


class Forwarding(Protocol):
    """What a strategy must have for its packets to be forwarded."""

    route: Route
    ledger: bool
    """Whether versions are signed."""
    admission: bool
    """Whether versions are judged on arrival."""

    def first_packet(self, node: Node) -> Packet:
        """Return the packet that all walkers begin as, which every node can make for itself."""

    def author_share(self, arrived: Packet) -> float:
        """Return the share of its update that the sender of a packet was to pass on."""


def forwarding_of(node: Node) -> Forwarding:
    """Return the strategy of the node's run."""
    return cast(Forwarding, build_strategy(node.run))


def acknowledge(message: Message, context: Context) -> Message:
    """Note that the next holder has the packet: its custody has passed on, signed if it can be.

    Raises
    ------
    LedgerError
        If the receipt is not good; the packet stays in custody then.
    """
    told = message.content.config_records["ack"]
    walker = text(told, "walker")
    if (notary := notary_of(Node.of(context), context)) is not None:
        if RECEIPT in message.content.config_records:
            notary.keep_receipt(message.content.config_records[RECEIPT], walker)
        notary.save()
    Custody(context.state).acknowledge(walker, integer(told, "hop"))
    return Message(RecordDict(), reply_to=message)


def send_again(message: Message, context: Context) -> Message:
    """Send the packet in custody once more, elsewhere if its receiver has failed or is busy.

    The holder's timer has gone off, or the receiver has another walker. What failed leaves the
    routing table, what is busy stays in it, and the policy chooses among the rest. A packet that
    its receiver has acknowledged is sent again only if `lost` says that it vanished behind that
    receiver.

    Raises
    ------
    PacketError
        If nothing of the walker is in custody here, or the next holder has it.
    """
    node = Node.of(context)
    told = message.content.config_records["timer"]
    walker = text(told, "walker")
    custody, kept = Custody(context.state), kept_packet(context, walker)
    if custody.acknowledged(kept) and not told.get("lost", False):
        raise PacketError(f"hop {kept.hop}: acknowledged, the next holder has it")
    busy = texts(told, "busy") if "busy" in told else []
    notary = notary_of(node, context)
    if "failed" in told:
        table = routing_table(node, context)
        table.unreachable(text(told, "failed"))
        keep_table(table, context)
    if told.get("spent", False):
        # A hop was used up on a version that nobody could take.
        kept = replace(kept, ttl=max(0, kept.ttl - 1))
    if "failed" in told or busy:
        avoid = {*busy, *(notary.dropped() if notary else ())}
        elsewhere = next_hop(node, context, kept.hop, kept.visited, kept.seen, avoid)
        records = custody.records(walker)
        beside = {n: r for n, r in records.items() if n not in kept.to_record()}
        kept = replace(kept, destination=elsewhere)
        custody.keep(kept, RecordDict(beside))
    return Message(outgoing(context, kept, notary), reply_to=message)


def send_whole(message: Message, context: Context) -> Message:
    """Send the packet in custody with its whole chain, to a receiver that could not attach less.

    Raises
    ------
    PacketError
        If nothing of the walker is in custody here.
    """
    kept = kept_packet(context, text(message.content.config_records["ask"], "walker"))
    notary = notary_of(Node.of(context), context)
    return Message(outgoing(context, kept, notary, whole=True), reply_to=message)


def show_ledger(message: Message, context: Context) -> Message:
    """Hand out this node's replica as lines."""
    notary = Notary(Node.of(context), context)
    notary.save()
    return Message(RecordDict({LEDGER: shown(notary)}), reply_to=message)


def show_entries(message: Message, context: Context) -> Message:
    """Show the replica to a node that doubts a head which this one announced."""
    notary = Notary(Node.of(context), context)
    notary.save()
    return Message(RecordDict({SHOWN: shown(notary)}), reply_to=message)


def name_held(message: Message, context: Context) -> Message:
    """Name the walker's version that this node can build a delta on, and its last update."""
    walker = text(message.content.config_records["offer"], "walker")
    held = held_packet(Node.of(context), context, walker)
    told = ConfigRecord({"walker": walker, "version": held.version, "update": held.hop - 1})
    return Message(RecordDict({"held": told}), reply_to=message)


def send_delta(message: Message, context: Context) -> Message:
    """Send the packet in custody as a delta onto the version that the next holder has named.

    Raises
    ------
    PacketError
        If nothing of the walker is in custody here.
    """
    told = message.content.config_records["held"]
    walker = text(told, "walker")
    kept = kept_packet(context, walker)
    content = outgoing(context, kept, notary_of(Node.of(context), context))
    changed = changed_since(kept, integer(told, "update"))
    for name, record in delta(kept, text(told, "version"), changed).to_record().items():
        content[name] = record
    return Message(content, reply_to=message)


def kept_packet(context: Context, walker: str) -> Packet:
    """Return the walker's packet in custody; raises `PacketError` if there is none."""
    kept = Custody(context.state).held(walker)
    if kept is None:
        raise PacketError(f"walker {walker}: no packet of it is in custody here")
    return kept


def notary_of(node: Node, context: Context) -> Notary | None:
    """Return the node's notary if the strategy has a ledger."""
    return Notary(node, context) if forwarding_of(node).ledger else None


def outgoing(
    context: Context, kept: Packet, notary: Notary | None, whole: bool = False
) -> RecordDict:
    """Return the message in which a packet in custody goes where its header says.

    The ledger's lines are those that this receiver lacks, and the parent stays here if the
    receiver made it or can make it for itself. The notary's work is over then: it saves.
    """
    content = Custody(context.state).records(kept.walker)
    if notary is not None:
        content[LEDGER] = notary.beside(kept, whole)
        if PARENT in content and not whole:
            made = notary.maker(kept.parent, arrived_chain(kept))
            if made.kind == "genesis" or made.author == kept.destination:
                del content[PARENT]
        notary.save()
    return content


def held_packet(node: Node, context: Context, walker: str) -> Packet:
    """Return the newest version of a walker that this node has: at first the one all begin with."""
    held = Custody(context.state).held(walker)
    return held or forwarding_of(node).first_packet(node)


def next_hop(
    node: Node,
    context: Context,
    number: int,
    visited: tuple[str, ...],
    seen: tuple[float, ...],
    avoid: Collection[str] = (),
) -> str:
    """Choose where hop `number` goes, from this node's own table; itself if it knows nobody.

    The policy chooses among all known nodes, and the packet goes to the neighbour on the way there:
    it is trained at every stop, and the next holder chooses anew.

    Parameters
    ----------
    number : int
        Hop to come.
    visited : tuple of str
        The packet's last visits, this one at the end.
    seen : tuple of float
        Samples of each label that the walk has trained on.
    avoid : collection of str
        Neighbours that do not take the packet now, or whose versions nobody takes.
    """
    route = forwarding_of(node).route
    last = {address: number - len(visited) + place for place, address in enumerate(visited)}
    routes = routing_table(node, context)
    table = [c for c in routes.candidates(0.0, last) if routes.via(c.address) not in avoid]
    if not table:
        return node.address
    recent = visited[-route.memory :] if route.memory else ()
    fresh = [c for c in table if c.address not in recent]
    # With every neighbour visited of late, the one left longest ago is the freshest.
    oldest = min(c.last_visit for c in table)
    here = Candidate(
        node.address,
        tuple(float(count) for count in node.label_counts),
        len(node.samples),
        flops_per_s=node.run.network.flops_per_s,
        degree=len(routes.neighbours),
        last_visit=last.get(node.address, -1),
    )
    chosen = choose(
        route.policy,
        here,
        fresh or [c for c in table if c.last_visit == oldest],
        seen,
        node.rng(number, purpose=1),
        **route.options,
    )
    return chosen if chosen == node.address else routes.via(chosen)


FORWARDING_ACTIONS = {
    **ANNOUNCE_ACTIONS,
    "query.ack": acknowledge,
    "query.again": send_again,
    "query.busy": send_again,
    "query.chain": send_whole,
    "query.held": name_held,
    "query.ledger": show_ledger,
    "query.send": send_delta,
    "query.shown": show_entries,
}
