"""The walk is decentralised, and on IID shards it is sequential SGD."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, fit, get_tunables
from mfd_flower.node import Node
from mfd_flower.packets import Packet
from mfd_flower.routing.adverts import SHORT
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
from mfd_flower.walk import MOVED
from mfd_flower.walk.custody import DATA, PACKET, SOURCE, packet_in, sealed
from tests.harness import trial
from tests.walk.walks import has_packet, hops, made, options

MakeRun = Callable[..., RunConfig]
ADVERT_KEYS = set(SHORT.values())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_walk_over_iid_shards_is_sequential_sgd(make_run: MakeRun, momentum: float) -> None:
    """Shards in order, optimiser carried, no shuffling: SGD on the concatenation."""
    train = {
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": momentum,
        "batch_size": 8,
        "shuffle": False,
    }
    run = make_run("mfd-walk", rounds=2, train=train, options=options(optimizer={}))
    shards = [Node(run, i).samples for i in range(3)]
    assert {len(s) for s in shards} == {16}
    whole = Samples(torch.cat([s.inputs for s in shards]), torch.cat([s.labels for s in shards]))
    model = build_model(run.model, 10, run.seed)
    settings = TrainConfig(**{**train, "local_epochs": 2})  # type: ignore[arg-type]
    fit(model, whole, settings, seed=0, stage=model.frozen_stage())
    found = trial(run).tensors
    for name, tensor in get_tunables(model).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("policy", ["random", "round-robin", "kl-near", "label-balance"])
def test_hop_starts_from_exactly_what_the_last_one_sent_and_where_it_said(
    make_run: MakeRun, policy: str
) -> None:
    data = {"partition": "dirichlet", "nodes": 4}
    grid = trial(make_run("mfd-walk", rounds=2, data=data, options={"policy": policy})).grid
    chain = grid.of("train.hop")
    assert len(chain) == 8
    for (_, reply), (request, _) in itertools.pairwise(chain):
        assert reply is not None
        assert (
            request.content.config_records[PACKET][DATA]
            == reply.content.config_records[PACKET][DATA]
        )
        named = packet_in(reply.content).destination
        assert grid.address(request.metadata.dst_node_id) == named


def test_no_image_label_or_frozen_weight_is_in_any_message(make_run: MakeRun) -> None:
    found = trial(make_run("mfd-walk", rounds=1))
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    asked = {"sequence", "walker", "hop"}
    packets = 0
    for message in [*found.grid.requests, *filter(None, found.grid.replies)]:
        assert not message.content.array_records
        if has_packet(message):
            packets += 1
            packet = packet_in(message.content)
            assert {name: tuple(t.shape) for name, t in packet.payload.items()} == shapes
        for name, record in message.content.config_records.items():
            if name == PACKET:
                assert set(record) == {DATA, SOURCE}
                continue
            assert set(record) <= asked | {"n0", "n1", "n2", "text"}, name
            for value in record.values():
                for content in value if isinstance(value, list) else [value]:
                    assert not isinstance(content, bytes)
                    if isinstance(content, str) and content.startswith("{"):
                        assert set(json.loads(content)) <= ADVERT_KEYS
    assert packets == 6


def test_the_packet_knows_what_it_has_seen(make_run: MakeRun) -> None:
    data = {"partition": "classes", "classes": 4, "train_samples": 120}
    run = make_run("mfd-walk", rounds=2, data=data)
    seen = torch.zeros(10)
    for packet in made(trial(run).grid):
        index = int(packet.source[1:])
        seen += torch.bincount(Node(run, index).samples.labels, minlength=10)
        assert list(packet.seen) == seen.tolist()


def test_adverts_reach_neighbours_only(make_run: MakeRun) -> None:
    data, network = {"nodes": 6, "train_samples": 90}, {"topology": "ring"}
    run = make_run(rounds=3, data=data, network=network, options={"policy": "random"})
    visits = [int(address[1:]) for address in run_locally(run)["visits"]]
    assert {(b - a) % 6 for a, b in itertools.pairwise(visits)} == {1, 5}


@pytest.mark.parametrize("links", [1, 2, 3])
def test_adverts_travel_as_far_as_asked_and_packets_go_by_neighbours(
    make_run: MakeRun, links: int
) -> None:
    run = make_run(
        rounds=2,
        data={"nodes": 7, "train_samples": 84},
        model={"tune": "head"},
        network={"topology": "ring"},
        options=options({"name": "label-balance", "advert_hops": links}),
    )
    grid = trial(run).grid
    # Each of 7 nodes hears 2 neighbours a round, and what is news goes on in one direction.
    assert grid.kinds["query.table"] == 2 * 7 * links
    for packet in hops(grid)[1:]:
        assert (int(packet.destination[1:]) - int(packet.source[1:])) % 7 in (1, 6)


def test_memory_keeps_a_packet_from_turning_back(make_run: MakeRun) -> None:
    data = {"nodes": 5, "partition": "dirichlet"}
    policy = {"name": "kl-near", "memory": 4}
    visits = run_locally(make_run("mfd-walk", rounds=3, data=data, options=options(policy)))[
        "visits"
    ]
    for start in range(len(visits) - 4):
        assert len(set(visits[start : start + 5])) == 5


def test_a_node_whose_advert_has_expired_is_not_chosen(make_run: MakeRun) -> None:
    """Adverts that hold for less than a hop leave the holder knowing nobody: it stays."""
    data, network = {"nodes": 4}, {"latency_s": 1.0}
    policy = {"name": "round-robin", "advert_lifetime_s": 0.5}
    found = trial(make_run(rounds=1, data=data, network=network, options=options(policy)))
    assert found.grid.visits == ["n0"] * 4
    longer = {**policy, "advert_lifetime_s": 1e6}
    found = trial(make_run(rounds=1, data=data, network=network, options=options(longer)))
    assert found.grid.visits == ["n0", "n1", "n2", "n3"]


def test_noised_adverts_keep_exact_counts_off_the_wire(make_run: MakeRun) -> None:
    """Neither an advert nor what the packet has seen gives the counts away."""
    policy = {"name": "label-balance", "noise_epsilon": 0.5}
    run = make_run(data={"nodes": 3, "train_samples": 60}, options=options(policy))
    grid = trial(run).grid
    first = hops(grid)[1]
    node = Node(run, int(first.source[1:]))
    heard = [
        json.loads(str(reply.content.config_records["advert"]["text"]))
        for _, reply in grid.of("query.advert")
        if reply is not None
    ]
    (told,) = [advert["c"] for advert in heard if advert["a"] == first.source]
    assert list(first.seen) == pytest.approx(told)
    assert list(first.seen) != node.label_counts.tolist()


def test_control_traffic_is_small_change(make_run: MakeRun) -> None:
    """On a full mesh of ten an advert costs less than 270 bytes a copy, 168 of them what Flower
    writes around one record, an ack less than 250."""
    run = make_run(rounds=1, data={"nodes": 10, "train_samples": 160}, model={"tune": "head"})
    record = run_locally(run)
    assert record["wire_by_type"]["query.table"] < 90 * 270
    assert record["wire_by_type"]["query.ack"] < 250 * 10


def test_a_message_that_names_another_source_is_refused(make_run: MakeRun) -> None:
    lies: list[str] = []

    def lie(request: Message) -> None:
        if not lies and has_packet(request) and packet_in(request.content).hop == 2:
            lies.append("n2")
            forged = ConfigRecord({**request.content.config_records[PACKET], SOURCE: "n2"})
            request.content = RecordDict({**request.content, PACKET: forged})

    run = make_run(data={"nodes": 4}, options=options())
    calm, found = trial(run), trial(run, change=lie)
    assert any("not where the message says" in reason for reason in found.grid.failures)
    assert found.tensors.keys() == calm.tensors.keys()
    assert all(torch.equal(found.tensors[name], t) for name, t in calm.tensors.items())


def test_a_failing_holder_ends_the_run_with_its_reason(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(node: Node, *args: object, **keywords: object) -> None:
        raise MemoryError("no room left")

    monkeypatch.setattr(Node, "fit", broken)
    with pytest.raises(RuntimeError, match="no room left"):
        trial(make_run("mfd-walk"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"policy": "greedy"}, "accepted: random, round-robin"),
        ({"policy": {"name": "greedy"}}, "accepted: random, round-robin"),
        ({"policy": ["random"]}, "options.policy"),
        ({"policy": {"name": "random", "epsilon": 1}}, "options.policy.epsilon = 1: accepted"),
        ({"policy": {"memory": 65}}, "options.policy.memory = 65"),
        ({"policy": {"start_node": 3}}, "below 3, the number of nodes"),
        ({"policy": {"advert_hops": 17}}, "options.policy.advert_hops = 17"),
        ({"policy": {"noise_epsilon": float("inf")}}, "options.policy.noise_epsilon = inf"),
        ({"walkers": 2}, "from 1 to 1, half of the nodes"),
        ({"hops": 3}, "accepts: policy, walkers, traits"),
        ({"traits": "damping"}, "options.traits = 'damping': a table of traits"),
        ({"traits": {"damp": {}}}, "accepted: admission, codec, contributions, damping"),
        ({"traits": {"damping": 0.5}}, "options.traits.damping = 0.5: a table"),
        ({"traits": {"damping": {"end": 0.0}}}, "options.traits.damping.end = 0.0: must be above"),
        ({"traits": {"damping": {"finish": 0.5}}}, "unknown key; accepted: start, end, tours"),
        ({"traits": {"codec": {"name": "int4"}}}, "must be one of fp32, bf16, fp16, int8"),
        ({"traits": {"gate": {"accuracy": 1.5}}}, "options.traits.gate.accuracy = 1.5"),
        ({"traits": {"partial": {"by": "best"}}}, "accepted: entropy, least-recent"),
        ({"traits": {"admission": {}}}, "needs trait ledger"),
    ],
)
def test_bad_options_are_refused(make_run: MakeRun, given: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refused:
        build_strategy(make_run("mfd-walk", options=given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", MOVED)
def test_an_old_option_says_where_it_went(make_run: MakeRun, name: str) -> None:
    with pytest.raises(ConfigError, match=f"options.{name} = 1: is now options"):
        build_strategy(make_run("mfd-walk", options={name: 1}))


def test_a_packet_travels_as_the_bytes_that_are_parsed_strictly(make_run: MakeRun) -> None:
    (first, *_) = hops(trial(make_run("mfd-walk")).grid)
    data = sealed(first)[DATA]
    assert isinstance(data, bytes)
    assert Packet.from_bytes(data) == first
    assert dataclasses.replace(first, ttl=first.ttl + 1).to_bytes() != data


def test_a_message_without_adverts_leaves_a_routing_table_as_it_is(make_run: MakeRun) -> None:
    def change(request: Message) -> None:
        if request.metadata.message_type == "query.table":
            records = request.content.config_records["adverts"]
            if request.metadata.group_id == "n3":
                records.clear()

    policy = {"name": "round-robin"}
    run = make_run(rounds=1, data={"nodes": 4}, options=options(policy))
    assert trial(run, change=change).grid.visits == ["n0", "n1", "n2", "n0"]
    assert trial(run).grid.visits == ["n0", "n1", "n2", "n3"]
