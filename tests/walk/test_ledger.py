"""Every version is signed, replicas get what they lack and no more, and keys stay at home."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.ledger import LedgerError, key_of, unpacked
from mfd_flower.node import Node, initial_tunables
from mfd_flower.packets import version_digest
from mfd_flower.runtime import LocalGrid
from mfd_flower.walk.custody import FOR_SENDER, Custody, packet_in
from mfd_flower.walk.node_ledger import LEDGER, RECEIPT, NodeLedger
from tests.harness import trial
from tests.walk.walks import chains_of, has_packet, path_of

Settings = Callable[..., RunConfig]
NODES = 5


def lines_in(message: Message) -> list[str]:
    record = message.content.config_records.get(LEDGER, ConfigRecord())
    return unpacked(record.get("lines", b"")).splitlines()


def test_a_clean_walk_is_the_same_with_a_ledger(signed: Settings) -> None:
    found, plain = trial(signed()), trial(signed(ledger=None))
    for name, tensor in plain.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert found.steps == plain.steps
    assert found.grid.visits == plain.grid.visits
    assert chains_of(plain).entries == []
    path = path_of(found)
    assert [entry.hop for entry in path] == list(range(3 * NODES + 1))
    assert [entry.author for entry in path[1:]] == found.grid.visits
    assert path[0].version == version_digest(initial_tunables(signed()))
    assert path[-1].version == version_digest(found.tensors)


def test_a_node_is_sent_no_entry_twice(signed: Settings) -> None:
    grid = trial(signed(rounds=5)).grid
    sent: Counter[tuple[int, str]] = Counter()
    for request, _ in grid.of("train.hop"):
        sent.update((request.metadata.dst_node_id, line) for line in lines_in(request))
    assert set(sent.values()) == {1}
    # Nor one of its own.
    for node_id, line in sent:
        assert f'"author":"{grid.address(node_id)}"' not in line


def test_walkers_share_one_ledger(signed: Settings) -> None:
    found = trial(signed(rounds=4, nodes=6, walkers=2))
    assert len(chains_of(found).tips) == 2
    for walker in ("w0", "w1"):
        path = path_of(found, walker)
        assert [entry.hop for entry in path][:13] == list(range(13))
    assert len(path_of(found, "w0")) + len(path_of(found, "w1")) == 2 * 13 + 1


def test_no_private_key_is_in_any_message(signed: Settings) -> None:
    run = signed(rounds=1, admission={})
    grid = trial(run).grid
    keys = [key_of(run.seed, f"n{node}").private_bytes_raw() for node in range(NODES)]
    secrets = [*keys, *(key.hex().encode() for key in keys)]
    seen = 0
    for message in [*grid.requests, *filter(None, grid.replies)]:
        pieces = [item.deflate() for item in get_all_nested_objects(message.content).values()]
        pieces.append("\n".join(lines_in(message)).encode())
        for piece in pieces:
            seen += len(piece)
            assert not any(secret in piece for secret in secrets)
    assert seen > 10_000


def damaged(record: ConfigRecord) -> ConfigRecord:
    lines = bytearray(zlib.decompress(record["lines"]))  # type: ignore[arg-type]
    lines[len(lines) // 2] ^= 1
    return ConfigRecord({**record, "lines": zlib.compress(bytes(lines))})


@pytest.mark.parametrize(
    "harm",
    [
        damaged,
        lambda record: ConfigRecord({**record, "lines": record["lines"][:-5]}),
        lambda record: ConfigRecord({"head": record["head"]}),
        lambda record: ConfigRecord({**record, "head": "0" * 64}),
    ],
    ids=["a bit", "cut off", "no lines", "another head"],
)
def test_lines_that_do_not_attach_are_sent_whole(
    signed: Settings, harm: Callable[[ConfigRecord], ConfigRecord]
) -> None:
    harmed: list[int] = []

    def change(request: Message) -> None:
        # The first try of hop 4 alone: what is sent again is whole.
        if has_packet(request) and packet_in(request.content).hop == 4 and not harmed:
            harmed.append(4)
            request.content[LEDGER] = harm(request.content.config_records[LEDGER])

    calm, shaken = trial(signed()), trial(signed(), change=change)
    assert shaken.grid.kinds["query.chain"] == 1
    assert path_of(shaken) == path_of(calm)
    assert shaken.grid.updates == calm.grid.updates


def test_custody_is_handed_over_with_a_receipt(signed: Settings) -> None:
    found = trial(signed(rounds=1, policy="round-robin"))
    for number in range(NODES - 1):
        state = found.contexts[f"n{number}"].state
        assert state.config_records[f"{RECEIPT}/w0"]["receiver"] == f"n{number + 1}"
        assert Custody(state).acknowledged(Custody(state).kept("w0"))


def test_a_forged_receipt_ends_no_custody(signed: Settings) -> None:
    run = signed(rounds=1, policy="round-robin")
    found = trial(run)
    context = found.contexts[f"n{NODES - 1}"]
    held = Custody(context.state).kept("w0")
    newest = chains_of(found).entries[-1]
    receipt = ConfigRecord({"entry": newest.hash, "receiver": "n0", "receipt": "0" * 128})
    told = ConfigRecord({"walker": "w0", "hop": held.hop})
    with LocalGrid(app, NODES, run.flat()):
        message = Message(RecordDict({"ack": told, FOR_SENDER: receipt}), 1, "query.ack")
        with pytest.raises(LedgerError, match="receipt of n0"):
            app(message, context)
    assert not Custody(context.state).acknowledged(held)


def test_a_vanished_receiver_stays_on_record(signed: Settings) -> None:
    """n1 signed for the version of n0, then nobody heard of it: whoever is next says so."""
    run = signed(rounds=1, policy="round-robin")
    context = trial(run).contexts["n0"]
    with LocalGrid(app, NODES, run.flat()):
        timer = ConfigRecord({"walker": "w0", "failed": "n1", "lost": True})
        again = app(Message(RecordDict({"timer": timer}), 1, "query.again"), context)
        packet = packet_in(again.content)
        index = int(packet.destination[1:])
        fresh = Context(1, 9, {"partition-id": index}, RecordDict(), run.flat())
        reply = app(Message(again.content, 9, "train.hop"), fresh)
    entry = NodeLedger(Node(run, index), fresh).chains.entries[-1]
    assert (entry.hop, entry.receiver) == (2, "n1")
    assert packet_in(reply.content).parent == packet.version


def test_nothing_is_kept_of_a_visit_that_fails(
    signed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at the very end leaves ledger, custody, table and traits' records as they were."""
    run = signed(rounds=1, policy="round-robin", codec={"name": "int8"}, admission={})
    hop = next(r for r, _ in trial(run).grid.of("train.hop"))
    context = Context(7, 1, {"partition-id": 0}, RecordDict(), run.flat())

    def broken(*args: Any) -> None:
        raise OSError("disk full")

    with LocalGrid(app, NODES, run.flat()):
        with monkeypatch.context() as patch:
            patch.setattr("mfd_flower.walk.traits.ledger.Ledger.depart", broken)
            with pytest.raises(OSError, match="disk full"):
                app(Message(hop.content, 1, "train.hop"), context)
        assert not context.state
        app(Message(hop.content, 1, "train.hop"), context)
    assert {"custody/w0/packet", "trait/w0/codec", "ledger"} <= set(context.state)
