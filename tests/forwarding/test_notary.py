"""Every version is signed, replicas get what they lack and no more, and keys stay at home."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from mfd_flower.checks import ConfigError
from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.forwarding import Custody, Notary, lines
from mfd_flower.forwarding.lines import unpacked
from mfd_flower.forwarding.notary import LEDGER, RECEIPT
from mfd_flower.ledger import Chains, Entry, LedgerError, key_of
from mfd_flower.network.world import world_of
from mfd_flower.node import Node, initial_tunables
from mfd_flower.packets import Packet, version_digest
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.strategy import build_strategy, links_of
from strategies.mfd_walk import MFDWalk

NODES = 5


class Tap(MeteredGrid):
    """Keeps every message, and may change a request before it is sent."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self.change: Callable[[Message], None] = lambda request: None
        self.change_asked: Callable[[Message], None] = lambda request: None

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        requests = list(messages)
        for request in requests:
            self.change(request)
        self.requests += requests
        return super().push_messages(requests)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        self.requests += (requests := list(messages))
        for request in requests:
            self.change_asked(request)
        self.replies += (replies := list(super().send_and_receive(requests, timeout=timeout)))
        return replies

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.replies += (replies := list(super().pull_messages(message_ids)))
        return replies


class Walked:
    """A walk that has ended: its messages, nodes, ledger and model."""

    def __init__(
        self,
        run: RunConfig,
        change: Callable[[Message], None] | None = None,
        change_asked: Callable[[Message], None] | None = None,
    ) -> None:
        strategy = build_strategy(run)
        assert isinstance(strategy, MFDWalk)
        self.steps: list[int] = []
        with LocalGrid(app, run.data.nodes, run.flat()) as inner:
            addresses = call_roll(inner, run.data.nodes)
            world = world_of(run.network, run.data.nodes, run.seed)
            self.grid = Tap(inner, links_of(type(strategy)), world, addresses)
            self.grid.change = change or self.grid.change
            self.grid.change_asked = change_asked or self.grid.change_asked
            result = strategy.start(
                self.grid,
                ArrayRecord(dict(initial_tunables(run))),
                num_rounds=run.strategy.rounds,
                evaluate_fn=lambda step, arrays: self.steps.append(step),  # type: ignore[func-returns-value]
            )
            self.contexts: dict[str, Context] = {
                addresses[node_id]: context for node_id, context in inner.contexts.items()
            }
        self.tensors = result.arrays.to_torch_state_dict()
        self.strategy = strategy
        self.chains = Chains()
        self.chains.extend(strategy.replica.splitlines())

    def path(self, walker: str = "w0") -> list[Entry]:
        """From the genesis to the version in force."""
        name = next(name for name in self.chains.tips if name.endswith(f"#{walker}"))
        return self.chains.trace(self.chains.tips[name].version)[::-1]

    def hops(self) -> list[Message]:
        """The packets under way, requests only."""
        return [r for r in self.grid.requests if r.metadata.message_type == "train.hop"]


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(rounds: int = 3, nodes: int = NODES, **options: Any) -> RunConfig:
        return make_run(
            "mfd-walk",
            rounds=rounds,
            data={"nodes": nodes, "train_samples": 20 * nodes, "test_samples": 40},
            model={"tune": "head"},
            options={"policy": "random", "ledger": True, **options},
        )

    return build


def lines_in(message: Message) -> list[str]:
    record = message.content.config_records.get(LEDGER, ConfigRecord())
    return unpacked(record.get("lines", b"")).splitlines()


def test_a_clean_walk_is_the_same_with_a_ledger(settings: Callable[..., RunConfig]) -> None:
    signed, plain = Walked(settings()), Walked(settings(ledger=False))
    for name, tensor in plain.tensors.items():
        assert torch.equal(signed.tensors[name], tensor), name
    assert signed.steps == plain.steps
    assert signed.grid.visits == plain.grid.visits
    assert plain.strategy.replica == ""
    path = signed.path()
    assert [entry.hop for entry in path] == list(range(3 * NODES + 1))
    assert [entry.author for entry in path[1:]] == signed.grid.visits
    assert path[0].version == version_digest(initial_tunables(settings()))
    assert path[-1].version == version_digest(signed.tensors)


def test_a_node_is_sent_no_entry_twice(settings: Callable[..., RunConfig]) -> None:
    walked = Walked(settings(rounds=5))
    sent: Counter[tuple[int, str]] = Counter()
    for request in walked.hops():
        sent.update((request.metadata.dst_node_id, line) for line in lines_in(request))
    assert set(sent.values()) == {1}
    # Nor one of its own.
    for node_id, line in sent:
        assert f'"author":"{walked.grid.address(node_id)}"' not in line


def test_merging_walkers_share_one_ledger(settings: Callable[..., RunConfig]) -> None:
    walked = Walked(settings(rounds=4, nodes=6, walkers=2, merge=True))
    assert len(walked.chains.tips) == 2
    for walker in ("w0", "w1"):
        assert [entry.hop for entry in walked.path(walker)] == list(range(13))
    merges = [entry for entry in walked.chains.entries if len(entry.parents) == 2]
    made = {(entry.walker, entry.version) for entry in walked.chains.entries}
    assert merges
    for entry in merges:
        other = "w1" if entry.walker == "w0" else "w0"
        assert (other, entry.parents[1]) in made


def test_no_private_key_is_in_any_message(settings: Callable[..., RunConfig]) -> None:
    run = settings(rounds=1, admission=True)
    walked = Walked(run)
    keys = [key_of(run.seed, f"n{node}").private_bytes_raw() for node in range(NODES)]
    secrets = [*keys, *(key.hex().encode() for key in keys)]
    seen = 0
    for message in [*walked.grid.requests, *walked.grid.replies]:
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
    settings: Callable[..., RunConfig], harm: Callable[[ConfigRecord], ConfigRecord]
) -> None:
    def change(request: Message) -> None:
        header = request.content.config_records.get("header", {})
        if header.get("hop") == 4:
            request.content[LEDGER] = harm(request.content.config_records[LEDGER])

    calm, shaken = Walked(settings()), Walked(settings(), change)
    kinds = Counter(request.metadata.message_type for request in shaken.grid.requests)
    assert kinds["query.chain"] == 1
    assert shaken.strategy.replica == calm.strategy.replica
    assert shaken.grid.updates == calm.grid.updates


def test_custody_is_handed_over_with_a_receipt(settings: Callable[..., RunConfig]) -> None:
    walked = Walked(settings(rounds=1, policy="round-robin"))
    for number in range(NODES - 1):
        context = walked.contexts[f"n{number}"]
        kept = context.state.config_records[f"{RECEIPT}/w0"]
        assert kept["receiver"] == f"n{number + 1}"
        held = Custody(context.state).held("w0")
        assert held is not None
        assert Custody(context.state).acknowledged(held)


def test_a_forged_receipt_ends_no_custody(settings: Callable[..., RunConfig]) -> None:
    run = settings(rounds=1, policy="round-robin")
    walked = Walked(run)
    context = walked.contexts[f"n{NODES - 1}"]
    held = Custody(context.state).held("w0")
    assert held is not None
    newest = walked.chains.entries[-1]
    receipt = ConfigRecord({"entry": newest.hash, "receiver": "n0", "receipt": "0" * 128})
    told = ConfigRecord({"walker": "w0", "hop": held.hop})
    with LocalGrid(app, NODES, run.flat()):
        message = Message(RecordDict({"ack": told, RECEIPT: receipt}), 1, "query.ack")
        with pytest.raises(LedgerError, match="receipt of n0"):
            app(message, context)
    assert not Custody(context.state).acknowledged(held)


def test_a_vanished_receiver_stays_on_record(settings: Callable[..., RunConfig]) -> None:
    """n1 signed for the version of n0, then nobody heard of it: whoever is next says so."""
    run = settings(rounds=1, policy="round-robin")
    walked = Walked(run)
    context = walked.contexts["n0"]
    with LocalGrid(app, NODES, run.flat()):
        timer = ConfigRecord({"walker": "w0", "failed": "n1", "lost": True})
        again = app(Message(RecordDict({"timer": timer}), 1, "query.again"), context)
        packet = Packet.from_record(again.content)
        fresh = Context(
            1, 9, {"partition-id": int(packet.destination[1:])}, RecordDict(), run.flat()
        )
        reply = app(Message(again.content, 9, "train.hop"), fresh)
    entry = Notary(Node(run, int(packet.destination[1:])), fresh).chains.entries[-1]
    assert (entry.hop, entry.receiver) == (2, "n1")
    assert Packet.from_record(reply.content).parent == packet.version


def test_a_packed_bomb_is_refused_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES_BYTES", 1000)
    assert unpacked(zlib.compress(b"a" * 1000)) == "a" * 1000
    for data in (zlib.compress(b"a" * 1001), zlib.compress(b"a")[:-1], b"lines", "lines", b"\xff"):
        with pytest.raises(LedgerError, match="lines: must be"):
            unpacked(data)


@pytest.mark.parametrize(
    ("options", "line"),
    [({"ledger": 1}, "must be true or false"), ({"admission": True}, "needs ledger = true")],
)
def test_bad_options_are_refused(
    make_run: Callable[..., RunConfig], options: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        build_strategy(make_run("mfd-walk", options=options))
