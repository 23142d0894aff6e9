"""Adverts: how routing tables are filled before a packet moves, on both sides.

The whitepaper (section 2.3) fills a node's routing table from the interest values that others
announce. A node's advert goes to its neighbours, and what is news to them goes on to theirs, as
many links as the policy's `advert_hops` says. What one node tells another is a message, billed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.records import integer, text, texts
from mfd_flower.routing import Advert, AdvertError, Policy, interest
from mfd_flower.walk import wants
from mfd_flower.walk.requests import TRIES, Requests
from mfd_flower.walk.visit import Visit

NOTHING = ConfigRecord()


def announce(message: Message, context: Context) -> Message:
    """Announce what this node's data and compute offer."""
    visit = Visit.of(context)
    asked = message.content.config_records["ask"]
    told: dict[str, Any] = {}
    for trait in visit.plan.traits:
        told |= trait.advertise(visit)
    policy, world, counts = visit.plan.policy, visit.node.world_view(), visit.told_counts
    samples = round(sum(counts))
    advert = Advert(
        address=visit.node.address,
        label_counts=tuple(round(count, 1) for count in counts),
        samples=samples,
        interest=round(interest(counts, (), samples=samples), 4),
        flops_per_s=world.device.flops_per_s,
        degree=len(world.neighbours),
        sequence=integer(asked, "sequence"),
        lifetime_s=policy.advert_lifetime_s or math.inf,
        hops_left=max(0, policy.advert_hops - 1),
        noise_epsilon=policy.noise_epsilon,
        **told,
        **wants.told(visit),
    )
    visit.save()
    content = RecordDict({"advert": ConfigRecord({"text": advert.to_text()})})
    return Message(content, reply_to=message)


def hear(message: Message, context: Context) -> Message:
    """Take neighbours' adverts into the routing table; returns what to pass on, by sender."""
    visit = Visit.of(context)
    node, world = visit.node, visit.node.world_view()
    onward: dict[str, list[str]] = {}
    told = message.content.config_records["adverts"]
    for via in told:
        for content in texts(told, via):
            heard = Advert.from_text(content)
            if (classes := len(heard.label_counts)) not in (0, node.num_classes):
                raise AdvertError("label_counts", classes, f"{node.num_classes} classes")
            news = visit.table.receive(heard, world.at_s, via, world.rate_from_bps(via))
            if news is not None:
                onward.setdefault(via, []).append(news.to_text())
    visit.table_changed = True
    visit.save()
    reply = RecordDict({"onward": ConfigRecord({**onward})}) if onward else RecordDict()
    return Message(reply, reply_to=message)


def pull(requests: Requests, holder: str, asked: Sequence[str], sequence: int) -> None:
    """Let neighbours that a holder asks tell it of themselves, each in a message of its own.

    What it has heard of them before with the same `sequence` it goes on believing.
    """
    ask = RecordDict({"ask": ConfigRecord({"sequence": sequence})})
    answers = requests.ask_each("query.probe", [(holder, address, ask) for address in asked])
    for address, reply in zip(asked, answers, strict=True):
        if reply is not None:
            advert = text(reply.config_records["advert"], "text")
            requests.content(holder, "query.table", _told(address, [advert]), address)


def exchange(
    requests: Requests, topology: Mapping[str, tuple[str, ...]], policy: Policy, sequence: int
) -> int:
    """Carry every node's advert as far as the policy says; returns how many announced themselves.

    A node that does not announce itself in `TRIES` tries stays out of the others' tables, which
    believe the announcement of the highest `sequence`.
    """
    adverts: dict[str, str] = {}
    for _ in range(TRIES):
        ask = RecordDict({"ask": ConfigRecord({"sequence": sequence})})
        silent = dict.fromkeys(sorted(topology.keys() - adverts.keys()), ask)
        for address, reply in requests.ask_all("query.advert", silent).items():
            adverts[address] = text(reply.config_records["advert"], "text")
    # What each node passes on, by the neighbour it had it from: nobody is told his own news.
    outbox = {address: {address: [content]} for address, content in adverts.items()}
    for _ in range(policy.advert_hops):
        waiting = [
            (receiver, sender, news)
            for receiver, near in topology.items()
            for sender in near
            if (news := _news(outbox.get(sender, {}), receiver))
        ]
        outbox = {}
        for _ in range(TRIES):
            sent = [(sender, receiver, _told(sender, news)) for receiver, sender, news in waiting]
            heard = requests.ask_each("query.table", sent)
            for (receiver, _, _), answer in zip(waiting, heard, strict=True):
                onward = answer.config_records.get("onward", NOTHING) if answer else NOTHING
                for via in onward:
                    outbox.setdefault(receiver, {}).setdefault(via, []).extend(texts(onward, via))
            waiting = [each for each, reply in zip(waiting, heard, strict=True) if reply is None]
    return len(adverts)


def _news(outbox: Mapping[str, list[str]], receiver: str) -> list[str]:
    """Return what a node tells a neighbour: not what it has from it."""
    return [content for via, news in outbox.items() if via != receiver for content in news]


def _told(sender: str, news: list[str]) -> RecordDict:
    """Return the message in which a node tells its news over one link."""
    return RecordDict({"adverts": ConfigRecord({sender: news})})
