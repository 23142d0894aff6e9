"""The exact walk: on every route, with any number of walkers and through deaths, the same sums."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.finding import sources
from mfd_flower.models.closed_form import solve
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import shard
from mfd_flower.models.rounded import Rounding, scale_of
from mfd_flower.models.sums import Sums
from mfd_flower.node import initial_tunables, with_head
from mfd_flower.packets import Packet, PacketError, pack
from mfd_flower.packets.members import bitmap, members_in
from mfd_flower.records import tensors_of
from mfd_flower.walk import plan_of
from mfd_flower.walk.custody import PACKET, UNTAKEN, packet_in, sealed
from mfd_flower.walk.hop import hop
from mfd_flower.walk.node_ledger import NodeLedger, key_of_node
from strategies.exact_walk import ExactWalk
from tests.harness import Trial, trial, whole_and_stopped
from tests.scheduled_faults import Fault
from tests.walk.walks import chains_of

NODES = 6


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(rounds: int = 3, classes: int = 1, **tables: Any) -> RunConfig:
        options = {k: tables.pop(k) for k in list(tables) if k in OPTIONS}
        data = {"nodes": NODES, "train_samples": 120, "partition": "classes", "classes": classes}
        data |= tables.pop("data", {})
        tables.setdefault("model", {"tune": "head"})
        return make_run("exact-walk", rounds, data=data, options=options, **tables)

    return build


OPTIONS = ("policy", "walkers", "traits", "features", "head")


def whole(run: RunConfig, without: tuple[int, ...] = ()) -> Sums:
    """Return the sums of all nodes' data in one place."""
    scale, classes = scale_of(run, Rounding()), federation_of(run).num_classes
    shards = [shard(run, node) for node in range(run.data.nodes) if node not in without]
    features = np.concatenate([s.inputs[:].numpy() for s in shards])
    labels = np.concatenate([s.labels.numpy() for s in shards])
    return Sums.of(scale.rounded(features), labels, classes)


def packets(found: Trial) -> list[Packet]:
    kinds = zip(found.grid.requests, found.grid.replies, strict=True)
    replies = [r for q, r in kinds if q.metadata.message_type == "train.hop" and r is not None]
    whole_ones = []
    for reply in replies:
        if reply.has_content() and PACKET in reply.content:
            with suppress(PacketError):  # Damaged on its way.
                whole_ones.append(packet_in(reply.content))
    return whole_ones


def last(found: Trial) -> Packet:
    """Return the packet with the most nodes in it, of equal ones the last."""
    nodes = found.run.data.nodes
    return max(reversed(packets(found)), key=lambda p: len(members_in(p.included, nodes)))


def sums_in(packet: Packet) -> bytes:
    return packet.decoded()["sums"].numpy().tobytes()


def ends_with(found: Trial, sums: Sums) -> bool:
    """Tell whether a run's last packet has these sums, and its model the head of them."""
    start = initial_tunables(found.run)
    wanted = with_head(found.run, start, solve("ridge", sums), Rounding())
    model = found.models[-1]
    assert isinstance(model, ArrayRecord)
    same = all(torch.equal(tensor, wanted[name]) for name, tensor in tensors_of(model).items())
    return same and sums_in(last(found)) == sums.to_bytes()


@pytest.mark.parametrize("walkers", [1, 2, 3])
@pytest.mark.parametrize("start_node", [0, 2, 5])
@pytest.mark.parametrize("policy", ["random", "kl-near", "round-robin"])
def test_every_route_brings_the_same_sums_and_the_same_head(
    settings: Callable[..., RunConfig], walkers: int, start_node: int, policy: str
) -> None:
    hops = 0 if policy == "random" else 1
    told = {"name": policy, "start_node": start_node, "advert_hops": hops}
    run = settings(policy=told, walkers=walkers)
    found = trial(run)
    assert ends_with(found, whole(run))
    assert sorted(found.grid.visits) == [f"n{i}" for i in range(NODES)]


def test_no_two_of_these_routes_are_one(settings: Callable[..., RunConfig]) -> None:
    routes = set()
    for start_node in range(NODES):
        for walkers in (1, 2):
            told = {"name": "random", "start_node": start_node, "advert_hops": 0}
            routes.add(tuple(trial(settings(policy=told, walkers=walkers)).grid.visits))
    assert len(routes) == 2 * NODES


@pytest.mark.parametrize("topology", [{"topology": "ring"}, {"topology": "regular", "degree": 3}])
@pytest.mark.parametrize("walkers", [1, 2])
@pytest.mark.parametrize("advert_hops", [0, 4])
def test_where_not_all_are_neighbours_nodes_that_were_added_forward(
    settings: Callable[..., RunConfig], topology: dict[str, Any], walkers: int, advert_hops: int
) -> None:
    told = {"name": "random", "advert_hops": advert_hops}
    run = settings(10, policy=told, walkers=walkers, network=topology)
    found = trial(run)
    assert ends_with(found, whole(run))
    assert sorted(found.grid.visits) == [f"n{i}" for i in range(NODES)]


def test_the_walk_ends_when_all_are_in(settings: Callable[..., RunConfig]) -> None:
    found = trial(settings(50))
    assert found.grid.kinds["train.hop"] == NODES
    assert packets(found)[-1].ttl == 0
    assert "query.advert" not in found.grid.kinds


def test_a_tour_pays_for_each_hops_sums_and_no_more(settings: Callable[..., RunConfig]) -> None:
    """Payload: nobody's sums to the first node, then what stands in each hop's packet."""
    run = settings()
    found = trial(run)
    order = [int(address.removeprefix("n")) for address in found.grid.visits]
    sizes = [len(whole(run, tuple(order[i:])).to_bytes()) for i in range(1, NODES)]
    empty = len(Sums.nothing(*whole(run).cross.shape).to_bytes())
    first = len(sums_in(packet_in(found.grid.requests[0].content)))
    assert found.grid.totals()["payload"] == first + sum(sizes)
    assert first < empty


DEATHS = {
    "dies before it is asked": Fault("dies-before-training", "n2", message_type="train.hop"),
    "does not hear": Fault("request-lost", "n2", message_type="train.hop", span=4),
    "is asked twice": Fault("request-duplicated", "n2", message_type="train.hop"),
    "is heard once it is asked again": Fault("reply-lost", "n2", message_type="train.hop"),
    "has its word damaged": Fault("reply-corrupted", "n2", message_type="train.hop"),
    "is late": Fault("reply-delayed", "n2", message_type="train.hop"),
}


@pytest.mark.parametrize("walkers", [1, 2])
@pytest.mark.parametrize("death", DEATHS)
def test_who_comes_back_is_in_the_sums_once(
    settings: Callable[..., RunConfig], death: str, walkers: int
) -> None:
    fault = replace(DEATHS[death], downtime=3)
    run = settings(walkers=walkers)
    assert ends_with(trial(run, [fault], timeout=5), whole(run))


@pytest.mark.parametrize("walkers", [1, 2])
@pytest.mark.parametrize("address", ["n1", "n2", "n5"])
def test_who_is_gone_for_good_is_missing_by_name(
    settings: Callable[..., RunConfig], address: str, walkers: int
) -> None:
    run = settings(walkers=walkers)
    found = trial(run, [Fault("asleep", address, span=None)], timeout=0.2)
    assert ends_with(found, whole(run, (int(address[1:]),)))
    everybody = {f"n{i}" for i in range(NODES)}
    assert members_in(last(found).included, NODES) == everybody - {address}


def test_who_dies_with_its_word_is_not_added_twice(settings: Callable[..., RunConfig]) -> None:
    """Its sums went into a branch that is lost; the packet comes by again, and it forwards."""
    run = settings()
    dies = Fault("dies-after-training", "n2", message_type="train.hop", downtime=3)
    found = trial(run, [dies], timeout=5)
    assert ends_with(found, whole(run, (2,)))
    assert last(found).passed == bitmap(["n2"])


@pytest.mark.parametrize("walkers", [1, 2])
@pytest.mark.parametrize("address", ["n1", "n2", "n4", "n5"])
def test_with_a_ledger_it_is_added_again_after_a_signed_void(
    settings: Callable[..., RunConfig], address: str, walkers: int
) -> None:
    """Whoever it is: the sender voids what it made, and then it counts as never added.

    Or it is back when the sender tries it again, and hands over what it made before it died.
    """
    run = settings(walkers=walkers, traits={"ledger": {}})
    others_are_left = address != "n5" and (address, walkers) != ("n2", 2)
    dies = Fault("dies-after-training", address, message_type="train.hop", downtime=2)
    found = trial(run, [dies], timeout=5)
    assert ends_with(found, whole(run))
    voids = [entry for entry in chains_of(found).entries if entry.kind == "void"]
    assert {entry.subject for entry in voids} == ({address} if others_are_left else set())
    made = [e.author for e in chains_of(found).entries if e.kind == "version"]
    assert made.count(address) == 1


def test_a_void_is_believed_of_the_sender_alone(
    settings: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another's word the node that was added takes no notice, and is not added twice."""
    run = settings(traits={"ledger": {}})
    true = NodeLedger.void

    def by_another(ledger: NodeLedger, sent: Packet, receiver: str) -> None:
        ledger.address = "n5"
        ledger._key = key_of_node(run.seed, "n5")
        true(ledger, sent, receiver)
        ledger.address = sent.source
        ledger._key = key_of_node(run.seed, sent.source)

    monkeypatch.setattr(NodeLedger, "void", by_another)
    dies = Fault("dies-after-training", "n2", message_type="train.hop", downtime=3)
    found = trial(run, [dies], timeout=5)
    assert ends_with(found, whole(run, (2,)))
    assert "void" in {entry.kind for entry in chains_of(found).entries}


def landing(
    run: RunConfig, packet: Packet, state: RecordDict | None = None
) -> tuple[RecordDict, Context]:
    """Let a packet land on the node that it goes to; returns the answer and what is kept."""
    index = int(packet.destination.removeprefix("n"))
    context = Context(1, 1, {"partition-id": index}, state or RecordDict(), run.flat())
    message = Message(RecordDict({PACKET: sealed(packet)}), 1, "train.hop")
    return hop(message, context).content, context


def forged(run: RunConfig, **header: Any) -> Packet:
    first = plan_of(run).first_packet(run, initial_tunables(run), 0, 9)
    return replace(first, **header)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"features": "0" * 64}, "features = 000000000000...: sums of others"),
        ({"included": bitmap(["n0"])}, "included: n0 has not added itself"),
        ({"meeting": f"n{NODES}"}, f"meeting = n{NODES}: none of the nodes"),
        ({"meeting": "n00"}, "meeting = n00: none of the nodes"),
        ({"meeting": "nobody"}, "meeting = nobody: none of the nodes"),
    ],
)
def test_sums_that_a_node_cannot_add_itself_to_are_named(
    settings: Callable[..., RunConfig], header: dict[str, Any], said: str
) -> None:
    run = settings()
    content, context = landing(run, forged(run, **header))
    assert said in str(content.config_records[UNTAKEN]["text"])
    assert not context.state


def test_a_node_of_no_such_number_is_named(settings: Callable[..., RunConfig]) -> None:
    run = settings()
    with pytest.raises(ValueError, match="included = 40: not a bitmap of 6 nodes"):
        landing(run, forged(run, included="40"))
    with pytest.raises(ValueError, match="not a bitmap"):
        landing(run, forged(run, included="0100"))


def test_a_packet_that_carries_no_sums_is_named(settings: Callable[..., RunConfig]) -> None:
    run = settings()
    good = forged(run)
    told = {name: value for name, value in good.values().items() if name not in ("version",)}
    for tensors, said in (
        ({"sums": torch.zeros(5, dtype=torch.uint8)}, "sums: "),
        ({"other": torch.zeros(5, dtype=torch.uint8)}, "payload other: accepted: sums"),
    ):
        bad, _ = pack(tensors, **{k: v for k, v in told.items() if k != "shapes"})
        with pytest.raises(ValueError, match=said):
            landing(run, bad)


def test_sums_that_overflow_are_named_and_nothing_is_kept(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings()
    features, classes = scale_of(run, Rounding()).features, federation_of(run).num_classes
    gram = np.zeros((features + 1, features + 1), np.int64)
    cross = np.zeros((features + 1, classes), np.int64)
    cross[-1, 0] = gram[-1, -1] = 2**53 - 1
    data = torch.from_numpy(np.frombuffer(Sums(gram, cross).to_bytes(), np.uint8).copy())
    told = {k: v for k, v in forged(run).values().items() if k not in ("version", "shapes")}
    content, context = landing(run, pack({"sums": data}, **told)[0])
    assert "a sum passes 2^53" in str(content.config_records[UNTAKEN]["text"])
    assert not context.state


def test_a_killed_run_goes_on_to_the_same_sums(
    settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    for walkers in (1, 2):
        run = settings(walkers=walkers)
        whole, again, _ = whole_and_stopped(run, tmp_path / str(walkers), 4)
        assert again == whole


def test_options_that_do_not_go_together_are_named(settings: Callable[..., RunConfig]) -> None:
    for told, said in (
        ({"traits": {"damping": {}}}, r"options.traits.damping = \{\}: is none of the traits"),
        (
            {"model": {"tune": "prompts"}},
            "model.tune = 'prompts': accepted without a session: head",
        ),
        ({"features": {"clip": 0.0}}, "options.features.clip = 0.0"),
        ({"walkers": 4}, "options.walkers = 4"),
    ):
        with pytest.raises(ConfigError, match=said):
            trial(settings(**told))


def test_traits_of_models_are_refused_and_those_of_sums_are_not() -> None:
    """Whatever traits there are: a new one of either kind has to say which it is."""
    for_sums = {"ledger", "admission", "contributions", "mask", "noise"}
    run = RunConfig(model=ModelConfig(tune="head"))
    for name in sources("trait"):
        traits = {name: {"epsilon": 1.0} if name == "noise" else {}}
        if name in ("admission", "contributions"):
            traits["ledger"] = {}
        if name in for_sums:
            ExactWalk.plan_for(run, traits=traits)
        else:
            with pytest.raises(ConfigError, match="is none of the traits that go with"):
                ExactWalk.plan_for(run, traits=traits)
