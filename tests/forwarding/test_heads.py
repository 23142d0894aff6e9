"""Heads travel with adverts, and who is sent a chain that was cut off finds out."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.config import RunConfig
from mfd_flower.forwarding.admission import UNTAKEN
from mfd_flower.forwarding.heads import SHOWN, CutOffError, check_heads, own_heads
from mfd_flower.forwarding.notary import LEDGER, Notary
from mfd_flower.ledger import LedgerError
from mfd_flower.node import Node
from mfd_flower.packets import Packet
from mfd_flower.records import texts
from mfd_flower.routing import Advert, RoutingTable
from tests.forwarding.test_notary import Walked, settings

__all__ = ["settings"]
Settings = Callable[..., RunConfig]


def adverts_of(walked: Walked) -> list[Advert]:
    return [
        Advert.from_text(str(reply.content.config_records["advert"]["text"]))
        for reply in walked.grid.replies
        if reply.has_content() and "advert" in reply.content
    ]


def test_adverts_bring_heads_that_all_can_check(settings: Settings) -> None:
    signed = Walked(settings(rounds=4, advert_every=1))
    told = [advert for advert in adverts_of(signed) if advert.sequence > 0]
    heads = {head for advert in told for head in advert.heads}
    places = set()
    for head in heads:
        walker, _, entry_hash = head.partition("=")
        assert walker == "w0"
        entry = signed.chains.find(entry_hash)
        assert entry is not None
        places.add(entry.place)
    assert len(places) >= 3
    assert not [advert for advert in adverts_of(signed) if advert.sequence == 0 and advert.heads]
    plain = Walked(settings(rounds=4, advert_every=1, ledger=False))
    assert not any(advert.heads for advert in adverts_of(plain))
    assert signed.strategy.not_taken == {}
    for name, tensor in plain.tensors.items():
        assert torch.equal(signed.tensors[name], tensor), name


def test_what_few_have_built_on_is_not_announced(settings: Settings) -> None:
    walked = Walked(settings(rounds=2))
    chain = walked.path()
    last = chain[-1].author
    node = Node(settings(rounds=2), int(last[1:]))
    (head,) = own_heads(Notary(node, walked.contexts[last]))
    announced = walked.chains.find(head.partition("=")[2])
    assert announced is not None
    later = [entry.author for entry in walked.chains.entries[announced.place + 1 :]]
    assert len(set(later)) == 3
    assert announced.author not in later


def rolled_back(walked: Walked, entries: int) -> tuple[Notary, Packet]:
    """Return a notary that knows the first entries of a chain only, and a packet of its walker."""
    fresh = Notary(Node(walked.strategy.run, 0), new_context(walked))
    fresh.chains.extend([entry.text for entry in walked.chains.entries[:entries]])
    return fresh, Packet.from_record(walked.hops()[0].content)


def new_context(walked: Walked) -> Context:
    known = walked.contexts["n0"]
    return Context(7, known.node_id, known.node_config, RecordDict(), known.run_config)


def table_with(heads: Sequence[str]) -> RoutingTable:
    table = RoutingTable("n0")
    for number, head in enumerate(heads, start=1):
        address = f"n{number}"
        table.receive(Advert(address, heads=(f"w0={head}",)), 0.0, address, 1e6)
    return table


def answer_of(entries: Sequence[str]) -> ConfigRecord:
    return ConfigRecord({"lines": zlib.compress("".join(f"{e}\n" for e in entries).encode())})


@pytest.fixture
def walked(settings: Settings) -> Walked:
    return Walked(settings(rounds=2))


def test_a_chain_that_reaches_the_heads_is_taken(walked: Walked) -> None:
    notary, packet = rolled_back(walked, 6)
    heads = [entry.hash for entry in walked.chains.entries[:6]]
    assert check_heads(notary, packet, RecordDict(), table_with(heads)) == []


def test_announcers_of_a_head_that_is_not_reached_are_to_be_asked(walked: Walked) -> None:
    notary, packet = rolled_back(walked, 6)
    entries = walked.chains.entries
    table = table_with([entries[3].hash, entries[8].hash, entries[6].hash])
    with pytest.raises(CutOffError) as caught:
        check_heads(notary, packet, RecordDict(), table)
    assert caught.value.reason == "cut-off"
    assert caught.value.announcers == ("n2", "n3")


def test_an_entry_that_is_shown_is_proof(walked: Walked) -> None:
    notary, packet = rolled_back(walked, 6)
    lines = [entry.text for entry in walked.chains.entries]
    table = table_with([walked.chains.entries[8].hash])
    content = RecordDict({f"{SHOWN}/n1": answer_of(lines[:9])})
    with pytest.raises(LedgerError, match="n1 shows place 8, what came ends at place 5") as caught:
        check_heads(notary, packet, content, table)
    assert caught.value.reason == "cut-off"
    assert not isinstance(caught.value, CutOffError)


@pytest.mark.parametrize("lie", ["nothing", "less", "forged", "garbage"])
def test_a_head_that_is_not_shown_is_not_believed(walked: Walked, lie: str) -> None:
    notary, packet = rolled_back(walked, 6)
    lines = [entry.text for entry in walked.chains.entries]
    head = walked.chains.entries[8].hash
    answer = {
        "nothing": ConfigRecord(),
        "less": answer_of(lines[:8]),
        "forged": answer_of([*lines[:8], lines[8].replace('"hop":8', '"hop":9')]),
        "garbage": ConfigRecord({"lines": b"\x00\x01"}),
    }[lie]
    content = RecordDict({f"{SHOWN}/n1": answer})
    assert check_heads(notary, packet, content, table_with([head])) == ["n1"]


def test_a_walk_set_back_by_its_carrier_is_found_out(settings: Settings) -> None:
    """A receiver gets an old packet with an old chain, whole and rightly signed."""
    run = settings(rounds=3, nodes=8, advert_every=1)
    clean = Walked(run)
    entries, hops = clean.path(), clean.hops()
    places = {entry.hash: entry.place for entry in entries}
    told = [(a.sequence, places[a.heads[0][3:]]) for a in adverts_of(clean) if a.heads]
    # Someone who has seen nothing of the walk from `old` on, but has heard how far it was.
    late, old = next(
        (late, old)
        for late in range(len(hops))
        for old in range(1, late)
        if destination(hops[late]) not in {entry.author for entry in entries[old : late + 1]}
        and any(sequence <= late and place > old for sequence, place in told)
    )
    earlier = Packet.from_record(hops[old].content)
    lines = "".join(f"{entry.text}\n" for entry in entries[: old + 1])

    def set_back(message: Message) -> None:
        header = message.content.config_records.get("header")
        if header is None or header["hop"] != late + 1:
            return
        content = dataclasses.replace(earlier, destination=destination(message)).to_record()
        content[LEDGER] = ConfigRecord(
            {"head": entries[old].hash, "lines": zlib.compress(lines.encode())}
        )
        message.content = content

    found = Walked(run, change=set_back)
    (doubt,) = doubts(found)
    assert doubt["reason"] == "cut-off"
    assert found.strategy.not_taken == {}
    assert [entry.version for entry in found.path()] == [entry.version for entry in entries]


def destination(hop: Message) -> str:
    return str(hop.content.config_records["header"]["destination"])


def doubts(walked: Walked) -> list[ConfigRecord]:
    answers = [reply.content for reply in walked.grid.replies if reply.has_content()]
    return [answer.config_records[UNTAKEN] for answer in answers if UNTAKEN in answer]


def test_heads_that_nobody_can_show_cost_their_announcers_a_place(settings: Settings) -> None:
    run = settings(rounds=3, advert_every=1)

    def lie(message: Message) -> None:
        if message.metadata.message_type != "query.table":
            return
        told = message.content.config_records["adverts"]
        for name in told:
            adverts = [Advert.from_text(str(text)) for text in texts(told, name)]
            heads = ("w0=" + "ab" * 32,)
            told[name] = [
                dataclasses.replace(advert, heads=heads if advert.heads else ()).to_text()
                for advert in adverts
            ]

    found, clean = Walked(run, change_asked=lie), Walked(run)
    assert doubts(found)
    assert {doubt["reason"] for doubt in doubts(found)} == {"cut-off"}
    assert found.strategy.not_taken == {}
    assert len(found.path()) == len(clean.path())
    asked = [r for r in found.grid.requests if r.metadata.message_type == "query.shown"]
    assert asked
    assert not [r for r in clean.grid.requests if r.metadata.message_type == "query.shown"]
