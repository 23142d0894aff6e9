"""The walk is decentralised, and on IID shards it is sequential SGD."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable

import pytest
import torch
from flwr.app import ArrayRecord, Message

from mfd_flower.checks import ConfigError
from mfd_flower.client_app import app
from mfd_flower.config import RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, fit, get_tunables
from mfd_flower.node import Node
from mfd_flower.packets import Header, Packet
from mfd_flower.routing.adverts import SHORT
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy

ASKED = {"degree", "sequence", "hops_left"}
HEADER_KEYS = {field.name for field in dataclasses.fields(Header)} | {"walker", "hop"}
ADVERT_KEYS = set(SHORT.values())


class Tap(MeteredGrid):
    """Keeps every request and reply, as a wire tap would."""

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self.under_way: dict[str, Message] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        requests = list(messages)
        replies = list(super().send_and_receive(requests, timeout=timeout))
        self.requests += requests
        self.replies += replies
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        requests = list(messages)
        ids = list(super().push_messages(requests))
        self.under_way.update(zip(ids, requests, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.requests += [self.under_way[r.metadata.reply_to_message_id] for r in replies]
        self.replies += replies
        return replies


def tapped(run: RunConfig) -> tuple[Tap, dict[str, torch.Tensor]]:
    walk = build_strategy(run)
    initial = ArrayRecord(get_tunables(build_model(run.model, 10, run.seed)))
    with LocalGrid(app, run.data.nodes, run.flat()) as inner:
        addresses = call_roll(inner, run.data.nodes)
        grid = Tap(inner, type(walk).links, addresses=addresses)  # type: ignore[attr-defined]
        result = walk.start(grid, initial, num_rounds=run.strategy.rounds)
    return grid, result.arrays.to_torch_state_dict()


def hops(grid: Tap) -> list[tuple[Message, Message]]:
    pairs = zip(grid.requests, grid.replies, strict=True)
    return [(a, b) for a, b in pairs if a.metadata.message_type == "train.hop"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_walk_over_iid_shards_is_sequential_sgd(
    make_run: Callable[..., RunConfig], momentum: float
) -> None:
    """Shards in order, optimiser carried, no shuffling: SGD on the concatenation."""
    train = {
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": momentum,
        "batch_size": 8,
        "shuffle": False,
    }
    options = {"policy": "round-robin", "carry_optimizer": True}
    run = make_run("mfd-walk", rounds=2, train=train, options=options)
    shards = [Node(run, i).samples for i in range(3)]
    assert {len(s) for s in shards} == {16}
    whole = Samples(torch.cat([s.inputs for s in shards]), torch.cat([s.labels for s in shards]))
    model = build_model(run.model, 10, run.seed)
    settings = TrainConfig(**{**train, "local_epochs": 2})  # type: ignore[arg-type]
    fit(model, whole, settings, seed=0, stage=model.frozen_stage())
    _, found = tapped(run)
    for name, tensor in get_tunables(model).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("policy", ["random", "round-robin", "kl-near", "label-balance"])
def test_hop_starts_from_exactly_what_the_last_one_sent_and_where_it_said(
    make_run: Callable[..., RunConfig], policy: str
) -> None:
    data = {"partition": "dirichlet", "nodes": 4}
    grid, _ = tapped(make_run("mfd-walk", rounds=2, data=data, options={"policy": policy}))
    chain = hops(grid)
    assert len(chain) == 8
    for (_, reply), (request, _) in itertools.pairwise(chain):
        assert request.content.object_id == reply.content.object_id
        named = reply.content.config_records["header"]["destination"]
        assert grid.address(request.metadata.dst_node_id) == named


def test_no_image_label_or_frozen_weight_is_in_any_message(
    make_run: Callable[..., RunConfig],
) -> None:
    run = make_run("mfd-walk", rounds=1)
    grid, final = tapped(run)
    shapes = {name: tuple(t.shape) for name, t in final.items()}
    for message in [*grid.requests, *grid.replies]:
        for record in message.content.array_records.values():
            assert {name: array.shape for name, array in record.items()} == shapes
        for name, settings in message.content.config_records.items():
            assert set(settings) <= HEADER_KEYS | {"n0", "n1", "n2", "text"} | ASKED, name
            for value in settings.values():
                for content in value if isinstance(value, list) else [value]:
                    if isinstance(content, str) and content.startswith('{"a"'):
                        assert set(json.loads(content)) <= ADVERT_KEYS


def test_the_packet_knows_what_it_has_seen(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(
        "mfd-walk", rounds=2, data={"partition": "classes", "classes": 4, "train_samples": 120}
    )
    grid, _ = tapped(run)
    seen = torch.zeros(10)
    for request, reply in hops(grid):
        index = int(grid.address(request.metadata.dst_node_id)[1:])
        seen += torch.bincount(Node(run, index).samples.labels, minlength=10)
        assert reply.content.config_records["header"]["seen"] == seen.tolist()


def test_damping_passes_on_a_share_of_the_update(make_run: Callable[..., RunConfig]) -> None:
    whole, _ = tapped(make_run("mfd-walk"))
    options = {"damping_start": 0.25, "damping_end": 0.25}
    part, _ = tapped(make_run("mfd-walk", options=options))

    def update(grid: Tap) -> torch.Tensor:
        request, reply = hops(grid)[0]
        before, after = (
            m.content.array_records["arrays"].to_torch_state_dict() for m in (request, reply)
        )
        return torch.cat([(after[n] - before[n]).flatten() for n in before])

    torch.testing.assert_close(update(part), 0.25 * update(whole), atol=1e-6, rtol=1e-4)


def test_a_gate_sends_the_packet_on_before_its_epochs_are_spent(
    make_run: Callable[..., RunConfig],
) -> None:
    train = {"local_epochs": 4, "lr": 0.01}
    options = {"policy": "round-robin"}

    def samples(gate: float) -> int:
        run = make_run(rounds=1, train=train, options={**options, "gate": gate})
        _, reply = hops(tapped(run)[0])[0]
        return Packet.from_record(reply.content).samples

    shard = 48 // 3
    assert samples(0.0) == 4 * shard
    assert samples(0.01) == shard


@pytest.mark.parametrize(
    ("codec", "size_bytes"),
    [
        ("bf16", 2 * 970),
        ("fp16", 2 * 970),
        ("int8", 970 + 4 * (10 + 1)),  # a scale for each of ten classes, and one for the bias
    ],
)
def test_a_codec_shrinks_the_payload_and_still_learns(
    make_run: Callable[..., RunConfig], codec: str, size_bytes: int
) -> None:
    data = {"train_samples": 300, "test_samples": 200}
    model = {"tune": "head"}
    full, small = (
        run_locally(make_run(rounds=2, data=data, model=model, options={"codec": name}))
        for name in ("fp32", codec)
    )
    assert full["points"][-1]["bytes"]["payload"] == 6 * 4 * 970
    assert small["points"][-1]["bytes"]["payload"] == 6 * size_bytes
    ends = [record["points"][-1]["accuracy"] for record in (full, small)]
    assert ends[1] > ends[0] - 0.05


def test_adverts_reach_neighbours_only(make_run: Callable[..., RunConfig]) -> None:
    data, network = {"nodes": 6, "train_samples": 90}, {"topology": "ring"}
    run = make_run(rounds=3, data=data, network=network, options={"policy": "random"})
    visits = [int(address[1:]) for address in run_locally(run)["visits"]]
    assert {(b - a) % 6 for a, b in itertools.pairwise(visits)} == {1, 5}


def test_memory_keeps_a_packet_from_turning_back(make_run: Callable[..., RunConfig]) -> None:
    data = {"nodes": 5, "partition": "dirichlet"}
    options = {"policy": "kl-near", "memory": 4}
    visits = run_locally(make_run("mfd-walk", rounds=3, data=data, options=options))["visits"]
    for start in range(len(visits) - 4):
        assert len(set(visits[start : start + 5])) == 5


def test_a_failing_holder_ends_the_run_with_its_reason(make_run: Callable[..., RunConfig]) -> None:
    run = make_run("mfd-walk", options={"start_node": 1})
    with LocalGrid(app, 3, {**run.flat(), "model.backbone": "file:gone"}) as inner:
        grid = MeteredGrid(inner, addresses=call_roll(inner, 3))
        initial = ArrayRecord(get_tunables(build_model(run.model, 10, 0)))
        with pytest.raises(RuntimeError, match="not a safetensors file"):
            build_strategy(run).start(grid, initial)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"policy": "greedy"}, "accepted: random, round-robin"),
        ({"damping_end": 0.0}, "above 0 and at most 1"),
        ({"hops": 3}, "accepts: policy, policy_options"),
        ({"policy": ["random"]}, "policy"),
        ({"policy": "random", "policy_options": {"epsilon": 1}}, "policy_options.epsilon"),
        ({"memory": 65}, "whole number up to 64"),
        ({"codec": "int4"}, "accepted: fp32, bf16, fp16, int8"),
        ({"gate": 1.5}, "from 0 to 1"),
        ({"start_node": 3}, "below 3 nodes"),
    ],
)
def test_bad_options_are_refused(
    make_run: Callable[..., RunConfig], options: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        build_strategy(make_run("mfd-walk", options=options))
