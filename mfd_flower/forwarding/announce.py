"""Adverts: how routing tables are filled before a packet moves, on both sides.

The whitepaper (section 2.3) fills a node's routing table from the interest values that others
announce. A node's advert goes to its neighbours, and what is news to them goes on to theirs, as
many links as the strategy's `route.advert_hops` says. Every copy that crosses a link is billed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from mfd_flower.forwarding.heads import own_heads
from mfd_flower.forwarding.notary import LEDGER, Notary
from mfd_flower.node import Node
from mfd_flower.records import integer, number, text, texts
from mfd_flower.routing import Advert, AdvertError, RoutingTable, interest, with_laplace_noise

TABLE = "routing-table"
NOISE = 2
"""Purpose of the generator that noises the label counts: one draw a node, however often it asks."""


def advert(message: Message, context: Context) -> Message:
    """Announce what this node's data and compute offer."""
    node = Node.of(context)
    asked = message.content.config_records["ask"]
    epsilon = number(asked, "noise_epsilon") if "noise_epsilon" in asked else 0.0
    own = own_advert(node, epsilon)
    record = dataclasses.replace(
        own,
        heads=seen_heads(node, context),
        degree=integer(asked, "degree"),
        sequence=integer(asked, "sequence"),
        hops_left=integer(asked, "hops_left"),
    )
    return Message(
        RecordDict({"advert": ConfigRecord({"text": record.to_text()})}), reply_to=message
    )


def seen_heads(node: Node, context: Context) -> tuple[str, ...]:
    """Return how far this node has seen the ledger's chains; nothing without a replica."""
    if LEDGER not in context.state:
        return ()
    notary = Notary(node, context)
    heads = own_heads(notary)
    notary.save()
    return heads


def own_advert(node: Node, noise_epsilon: float) -> Advert:
    """Return a node's announcement; its label counts are noised if `noise_epsilon` is not 0."""
    counts = tuple(float(count) for count in node.label_counts)
    exact = Advert(
        address=node.address,
        label_counts=counts,
        samples=round(sum(counts)),
        interest=interest(counts, (), samples=sum(counts)),
        flops_per_s=node.run.network.flops_per_s,
    )
    told = with_laplace_noise(exact, noise_epsilon, node.rng(0, NOISE)) if noise_epsilon else exact
    return dataclasses.replace(
        told,
        label_counts=tuple(round(count, 1) for count in told.label_counts),
        interest=round(told.interest, 4),
    )


def announced_counts(node: Node, noise_epsilon: float) -> NDArray[np.float64]:
    """Return the label counts that a node lets others know, ``(num_classes,)``."""
    return np.asarray(own_advert(node, noise_epsilon).label_counts)


def receive_adverts(message: Message, context: Context) -> Message:
    """Take neighbours' adverts into the routing table; returns what to pass on, by sender."""
    node = Node.of(context)
    table = routing_table(node, context)
    onward: dict[str, list[str]] = {}
    told = message.content.config_records["adverts"]
    for via in told:
        for content in texts(told, via):
            heard = Advert.from_text(content)
            if len(heard.label_counts) not in (0, node.num_classes):
                raise AdvertError(
                    "label_counts", len(heard.label_counts), f"{node.num_classes} classes"
                )
            news = table.receive(heard, 0.0, via, node.run.network.d2d_bps)
            if news is not None:
                onward.setdefault(via, []).append(news.to_text())
    keep_table(table, context)
    reply = RecordDict({"onward": ConfigRecord({**onward})}) if onward else RecordDict()
    return Message(reply, reply_to=message)


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


Requests = Mapping[str, tuple[str, Mapping[str, ConfigRecord]]]


def spread_adverts(
    topology: Mapping[str, tuple[str, ...]],
    ask_all: Callable[[Requests], dict[str, RecordDict]],
    hops: int,
    sequence: int,
    noise_epsilon: float,
    tries: int,
) -> int:
    """Carry every node's advert `hops` links far; returns how many nodes announced themselves.

    A node that does not announce itself in `tries` tries stays out of the others' tables.

    Parameters
    ----------
    topology : mapping of str to tuple of str
        Neighbours of each address.
    ask_all : callable
        Carries requests ``{address: (type, records)}`` and returns the replies that came.
    hops : int
        Links that an advert crosses, at least 1.
    sequence : int
        Number of this announcement; tables believe the newest.
    noise_epsilon : float
        Privacy budget of the noise on label counts, 0 for none.
    tries : int
        How often what got no answer is repeated.
    """
    adverts: dict[str, str] = {}
    for _ in range(tries):
        ask: dict[str, tuple[str, Mapping[str, ConfigRecord]]] = {}
        for address in topology.keys() - adverts.keys():
            values: dict[str, int | float] = {
                "degree": len(topology[address]),
                "sequence": sequence,
                "hops_left": hops - 1,
            }
            if noise_epsilon:
                values["noise_epsilon"] = noise_epsilon
            ask[address] = ("query.advert", {"ask": ConfigRecord({**values})})
        for address, reply in ask_all(dict(sorted(ask.items()))).items():
            adverts[address] = text(reply.config_records["advert"], "text")
    # What each node passes on, by the neighbour it had it from: nobody is told his own news.
    outbox = {address: {address: [content]} for address, content in adverts.items()}
    for _ in range(hops):
        waiting = {address: _inbox(address, near, outbox) for address, near in topology.items()}
        outbox = {}
        for _ in range(tries):
            waiting = {address: box for address, box in waiting.items() if box}
            heard = ask_all(
                {a: ("query.table", {"adverts": ConfigRecord({**b})}) for a, b in waiting.items()}
            )
            for address, reply in heard.items():
                onward = reply.config_records.get("onward", ConfigRecord())
                outbox[address] = {via: texts(onward, via) for via in onward}
            waiting = {address: box for address, box in waiting.items() if address not in heard}
    return len(adverts)


def _inbox(
    receiver: str, neighbours: tuple[str, ...], outbox: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, list[str]]:
    """Return what a node hears from each neighbour."""
    box = {}
    for sender in neighbours:
        parts = [news for via, news in outbox.get(sender, {}).items() if via != receiver]
        if heard := [content for part in parts for content in part]:
            box[sender] = heard
    return box


ANNOUNCE_ACTIONS = {"query.advert": advert, "query.table": receive_adverts}
ANNOUNCE_LINKS = {"query.advert": "relay", "query.table": "d2d"}
