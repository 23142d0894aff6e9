"""A node's part in forwarding: adverts, its routing table, the next hop, packets in custody.

The whitepaper (section 2.3) fills a node's routing table from the interest values that others
announce, and (section 2.6) lets the packet choose its next hop from live information. A strategy
that forwards packets adds `FORWARDING_ACTIONS` to its client half and has an attribute `route`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.config import ConfigError
from mfd_flower.forwarding.custody import Custody
from mfd_flower.node import Node
from mfd_flower.packets import PacketError
from mfd_flower.records import integer, text
from mfd_flower.routing import (
    POLICIES,
    Advert,
    AdvertError,
    Candidate,
    RoutingTable,
    choose,
    interest,
    policy_options,
)
from mfd_flower.strategy import build_strategy

TABLE = "routing-table"
MAX_MEMORY = 64


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


def advert(message: Message, context: Context) -> Message:
    """Announce what this node's data and compute offer."""
    node = Node.of(context)
    counts = tuple(int(count) for count in node.label_counts)
    record = Advert(
        address=node.address,
        label_counts=counts,
        samples=sum(counts),
        interest=interest(counts, (), samples=sum(counts)),
        flops_per_s=node.run.network.flops_per_s,
        degree=integer(message.content.config_records["ask"], "degree"),
    )
    return Message(RecordDict({"advert": ConfigRecord({**record.fields()})}), reply_to=message)


def receive_adverts(message: Message, context: Context) -> Message:
    """Take neighbours' adverts into the routing table."""
    node = Node.of(context)
    table = routing_table(node, context)
    for record in message.content.config_records.values():
        heard = Advert.from_fields(record)
        if len(heard.label_counts) not in (0, node.num_classes):
            raise AdvertError(
                "label_counts", len(heard.label_counts), f"{node.num_classes} classes"
            )
        table.receive(heard, 0.0, heard.address, node.run.network.d2d_bps)
    keep_table(table, context)
    return Message(RecordDict(), reply_to=message)


def acknowledge(message: Message, context: Context) -> Message:
    """Note that the next holder has the packet: its custody has passed on."""
    told = message.content.config_records["ack"]
    Custody(context.state).acknowledge(text(told, "walker"), integer(told, "hop"))
    return Message(RecordDict(), reply_to=message)


def send_again(message: Message, context: Context) -> Message:
    """Send the packet in custody once more, elsewhere if its receiver has failed.

    The holder's timer has gone off. What failed leaves the routing table, and the policy chooses
    among the rest. A packet that its receiver has acknowledged is sent again only if `lost` says
    that it vanished behind that receiver.

    Raises
    ------
    PacketError
        If nothing of the walker is in custody here, or the next holder has it.
    """
    node = Node.of(context)
    told = message.content.config_records["timer"]
    walker = text(told, "walker")
    custody = Custody(context.state)
    kept = custody.held(walker)
    if kept is None:
        raise PacketError(f"walker {walker}: no packet of it is in custody here")
    if custody.acknowledged(kept) and not told.get("lost", False):
        raise PacketError(f"hop {kept.hop}: acknowledged, the next holder has it")
    if "failed" in told:
        table = routing_table(node, context)
        table.drop(text(told, "failed"))
        keep_table(table, context)
        elsewhere = next_hop(node, context, kept.hop, kept.visited, kept.seen)
        kept = replace(kept, destination=elsewhere)
        custody.keep(kept)
    return Message(kept.to_record(), reply_to=message)


def next_hop(
    node: Node, context: Context, number: int, visited: tuple[str, ...], seen: tuple[float, ...]
) -> str:
    """Choose where hop `number` goes, from this node's own table; itself if it knows nobody.

    Parameters
    ----------
    number : int
        Hop to come.
    visited : tuple of str
        The packet's last visits, this one at the end.
    seen : tuple of float
        Samples of each label that the walk has trained on.
    """
    strategy = build_strategy(node.run)
    route: Route = strategy.route  # type: ignore[attr-defined]
    last = {address: number - len(visited) + place for place, address in enumerate(visited)}
    table = routing_table(node, context).candidates(0.0, last)
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
        degree=len(table),
        last_visit=last.get(node.address, -1),
    )
    return choose(
        route.policy,
        here,
        fresh or [c for c in table if c.last_visit == oldest],
        seen,
        node.rng(number, purpose=1),
        **route.options,
    )


def routing_table(node: Node, context: Context) -> RoutingTable:
    """Read the node's table out of its state."""
    records = context.state.config_records.items()
    return RoutingTable.from_entries(
        node.address, [record for name, record in records if name.startswith(TABLE)]
    )


def keep_table(table: RoutingTable, context: Context) -> None:
    """Write the node's table into its state."""
    for name in [name for name in context.state if name.startswith(TABLE)]:
        del context.state[name]
    for entry in table.entries():
        context.state[f"{TABLE}.{entry['address']}"] = ConfigRecord({**entry})


FORWARDING_ACTIONS = {
    "query.advert": advert,
    "query.table": receive_adverts,
    "query.ack": acknowledge,
    "query.again": send_again,
}
