"""Heads travel with adverts, and who is sent a chain that was cut off finds out."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.config import RunConfig
from mfd_flower.ledger import LedgerError
from mfd_flower.node import Node
from mfd_flower.packets import Packet
from mfd_flower.records import texts
from mfd_flower.routing import Advert, RoutingTable
from mfd_flower.walk.custody import PACKET, UNTAKEN, packet_in, sealed
from mfd_flower.walk.node_ledger import LEDGER, NodeLedger
from mfd_flower.walk.traits.ledger import SHOWN, CutOffError, check_heads, own_heads
from tests.harness import Trial, trial
from tests.walk.walks import chains_of, hops, path_of

Settings = Callable[..., RunConfig]
EVERY_TOUR = {"name": "random", "advert_every": 1}


def adverts_of(walked: Trial) -> list[Advert]:
    return [
        Advert.from_text(str(reply.content.config_records["advert"]["text"]))
        for reply in walked.grid.replies
        if reply is not None and reply.has_content() and "advert" in reply.content
    ]


def test_adverts_bring_heads_that_all_can_check(signed: Settings) -> None:
    found = trial(signed(rounds=4, policy=EVERY_TOUR))
    told = [advert for advert in adverts_of(found) if advert.sequence > 0]
    heads = {head for advert in told for head in advert.heads}
    places = set()
    for head in heads:
        walker, _, entry_hash = head.partition("=")
        assert walker == "w0"
        entry = chains_of(found).find(entry_hash)
        assert entry is not None
        places.add(entry.place)
    assert len(places) >= 3
    assert not [advert for advert in adverts_of(found) if advert.sequence == 0 and advert.heads]
    plain = trial(signed(rounds=4, policy=EVERY_TOUR, ledger=None))
    assert not any(advert.heads for advert in adverts_of(plain))
    assert not_taken(found) == {}
    for name, tensor in plain.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name


def test_what_few_have_built_on_is_not_announced(signed: Settings) -> None:
    walked = trial(signed(rounds=2))
    chain = path_of(walked)
    last = chain[-1].author
    node = Node(signed(rounds=2), int(last[1:]))
    (head,) = own_heads(NodeLedger(node, walked.contexts[last]))
    announced = chains_of(walked).find(head.partition("=")[2])
    assert announced is not None
    later = [entry.author for entry in chains_of(walked).entries[announced.place + 1 :]]
    assert len(set(later)) == 3
    assert announced.author not in later


def rolled_back(walked: Trial, entries: int) -> tuple[NodeLedger, Packet]:
    """Return a notary that knows the first entries of a chain only, and a packet of its walker."""
    fresh = NodeLedger(Node(walked.run, 0), new_context(walked))
    fresh.chains.extend([entry.text for entry in chains_of(walked).entries[:entries]])
    return fresh, hops(walked.grid)[0]


def new_context(walked: Trial) -> Context:
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
def walked(signed: Settings) -> Trial:
    return trial(signed(rounds=2))


def test_a_chain_that_reaches_the_heads_is_taken(walked: Trial) -> None:
    notary, packet = rolled_back(walked, 6)
    heads = [entry.hash for entry in chains_of(walked).entries[:6]]
    assert check_heads(notary, packet, RecordDict(), table_with(heads)) == []


def test_announcers_of_a_head_that_is_not_reached_are_to_be_asked(walked: Trial) -> None:
    notary, packet = rolled_back(walked, 6)
    entries = chains_of(walked).entries
    table = table_with([entries[3].hash, entries[8].hash, entries[6].hash])
    with pytest.raises(CutOffError) as caught:
        check_heads(notary, packet, RecordDict(), table)
    assert caught.value.reason == "cut-off"
    assert caught.value.announcers == ("n2", "n3")


def test_an_entry_that_is_shown_is_proof(walked: Trial) -> None:
    notary, packet = rolled_back(walked, 6)
    lines = [entry.text for entry in chains_of(walked).entries]
    table = table_with([chains_of(walked).entries[8].hash])
    content = RecordDict({f"{SHOWN}/n1": answer_of(lines[:9])})
    with pytest.raises(LedgerError, match="n1 shows place 8, what came ends at place 5") as caught:
        check_heads(notary, packet, content, table)
    assert caught.value.reason == "cut-off"
    assert not isinstance(caught.value, CutOffError)


@pytest.mark.parametrize("lie", ["nothing", "less", "forged", "garbage"])
def test_a_head_that_is_not_shown_is_not_believed(walked: Trial, lie: str) -> None:
    notary, packet = rolled_back(walked, 6)
    lines = [entry.text for entry in chains_of(walked).entries]
    head = chains_of(walked).entries[8].hash
    answer = {
        "nothing": ConfigRecord(),
        "less": answer_of(lines[:8]),
        "forged": answer_of([*lines[:8], lines[8].replace('"hop":8', '"hop":9')]),
        "garbage": ConfigRecord({"lines": b"\x00\x01"}),
    }[lie]
    content = RecordDict({f"{SHOWN}/n1": answer})
    assert check_heads(notary, packet, content, table_with([head])) == ["n1"]


def test_a_walk_set_back_by_its_carrier_is_found_out(signed: Settings) -> None:
    """A receiver gets an old packet with an old chain, whole and rightly signed."""
    run = signed(rounds=3, nodes=8, policy=EVERY_TOUR)
    clean = trial(run)
    entries, sent = path_of(clean), hops(clean.grid)
    places = {entry.hash: entry.place for entry in entries}
    told = [(a.sequence, places[a.heads[0][3:]]) for a in adverts_of(clean) if a.heads]
    # Someone who has seen nothing of the walk from `old` on, but has heard how far it was.
    late, old = next(
        (late, old)
        for late in range(len(sent))
        for old in range(1, late)
        if sent[late].destination not in {entry.author for entry in entries[old : late + 1]}
        and any(sequence <= late and place > old for sequence, place in told)
    )
    lines = "".join(f"{entry.text}\n" for entry in entries[: old + 1])

    def set_back(message: Message) -> None:
        packet = packet_in(message.content)
        chain = ConfigRecord({"head": entries[old].hash, "lines": zlib.compress(lines.encode())})
        earlier = dataclasses.replace(sent[old], destination=packet.destination)
        message.content = RecordDict({PACKET: sealed(earlier), LEDGER: chain})

    found = trial(run, change=once(set_back, hop=late + 1))
    (doubt,) = doubts(found)
    assert doubt["reason"] == "cut-off"
    assert not_taken(found) == {}
    assert [entry.version for entry in path_of(found)] == [entry.version for entry in entries]


def once(change: Callable[[Message], None], hop: int) -> Callable[[Message], None]:
    """Change the first message that a hop travels in, and no later one."""
    done: list[int] = []

    def first(message: Message) -> None:
        is_hop = message.metadata.message_type == "train.hop"
        if not done and is_hop and packet_in(message.content).hop == hop:
            done.append(hop)
            change(message)

    return first


def doubts(walked: Trial) -> list[ConfigRecord]:
    answers = [r.content for r in walked.grid.replies if r is not None and r.has_content()]
    return [answer.config_records[UNTAKEN] for answer in answers if UNTAKEN in answer]


def not_taken(walked: Trial) -> object:
    return walked.strategy.not_taken  # type: ignore[attr-defined]


def test_heads_that_nobody_can_show_cost_their_announcers_a_place(signed: Settings) -> None:
    run = signed(rounds=3, policy=EVERY_TOUR)

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

    found, clean = trial(run, change=lie), trial(run)
    assert doubts(found)
    assert {doubt["reason"] for doubt in doubts(found)} == {"cut-off"}
    assert not_taken(found) == {}
    assert len(path_of(found)) == len(path_of(clean))
    assert found.grid.kinds["query.shown"] > 0
    assert clean.grid.kinds["query.shown"] == 0
