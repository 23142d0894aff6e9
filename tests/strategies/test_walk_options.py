"""Deltas, partial updates, several walkers, noised and far-travelling adverts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.forwarding import Custody, announced_counts
from mfd_flower.models import build_model, get_tunables
from mfd_flower.network.world import world_of
from mfd_flower.node import Node, initial_tunables
from mfd_flower.packets import Packet, repack
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy, links_of
from strategies.mfd_walk import MFDWalk


class Watch(MeteredGrid):
    """Notes who has a packet, and every packet that came back from a hop."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.under_way: dict[str, str] = {}
        self.together: list[list[str]] = []
        self.kinds: Counter[str] = Counter()
        self.hops: list[RecordDict] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        requests = list(messages)
        ids = list(super().push_messages(requests))
        for message_id, request in zip(ids, requests, strict=True):
            self.kinds[request.metadata.message_type] += 1
            self.under_way[message_id] = self.address(request.metadata.dst_node_id)
            self.hops.append(request.content)
        self.together.append(list(self.under_way.values()))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            del self.under_way[reply.metadata.reply_to_message_id]
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        requests = list(messages)
        self.kinds.update(request.metadata.message_type for request in requests)
        return super().send_and_receive(requests, timeout=timeout)


def watched(run: RunConfig) -> tuple[Watch, dict[str, torch.Tensor]]:
    walk = build_strategy(run)
    initial = ArrayRecord(get_tunables(build_model(run.model, 10, run.seed)))
    with LocalGrid(app, run.data.nodes, run.flat()) as inner:
        addresses = call_roll(inner, run.data.nodes)
        world = world_of(run.network, run.data.nodes, run.seed)
        grid = Watch(inner, links_of(type(walk)), world, addresses)
        result = walk.start(grid, initial, num_rounds=run.strategy.rounds)
    return grid, result.arrays.to_torch_state_dict()


@pytest.mark.parametrize("codec", ["fp32", "int8"])
@pytest.mark.parametrize("select", ["entropy", "least-recent"])
def test_a_delta_walk_is_the_same_walk_with_fewer_bytes(
    make_run: Callable[..., RunConfig], codec: str, select: str
) -> None:
    options = {"policy": "round-robin", "select": select, "budget": 0.4, "codec": codec}
    full_grid, full = watched(make_run(rounds=3, options=options))
    grid, found = watched(make_run(rounds=3, options={**options, "delta": True}))
    for name, tensor in full.items():
        assert torch.equal(found[name], tensor), name
    assert grid.totals()["payload"] < 0.8 * full_grid.totals()["payload"]
    # Every packet between nodes but the very first is a delta that its receiver could read.
    kinds = [content.config_records["header"]["kind"] for content in grid.hops]
    assert kinds == ["full"] + ["delta"] * 8
    assert grid.failures == []


def test_a_partial_update_dates_what_it_changed(make_run: Callable[..., RunConfig]) -> None:
    options = {"policy": "round-robin", "select": "least-recent", "budget": 0.2}
    grid, _ = watched(make_run(rounds=3, options=options))
    packets = [Packet.from_record(content) for content in grid.hops]
    for before, after in itertools.pairwise(packets):
        old, new = before.decoded(), after.decoded()
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        dated = {name for name, when in after.updated.items() if when == before.hop}
        assert changed <= dated
        assert changed
        values = sum(old[name].numel() for name in dated)
        assert values <= 0.2 * sum(tensor.numel() for tensor in old.values())


@pytest.mark.parametrize("walkers", [2, 3])
@pytest.mark.parametrize("topology", ["full", "ring"])
def test_walkers_share_the_work_and_never_a_node(
    make_run: Callable[..., RunConfig], walkers: int, topology: str
) -> None:
    run = make_run(
        rounds=4,
        data={"nodes": 6, "train_samples": 90},
        model={"tune": "head"},
        network={"topology": topology},
        options={"policy": "random", "walkers": walkers},
    )
    grid, _ = watched(run)
    assert not grid.failures
    assert grid.kinds["train.hop"] == 24
    assert max(len(places) for places in grid.together) == walkers
    for places in grid.together:
        assert len(set(places)) == len(places)
    by_walker = Counter(content.config_records["header"]["walker"] for content in grid.hops)
    assert set(by_walker.values()) == {24 // walkers}


def test_two_walkers_take_half_the_virtual_time(make_run: Callable[..., RunConfig]) -> None:
    def seconds(walkers: int) -> float:
        run = make_run(
            rounds=4,
            data={"nodes": 6, "train_samples": 90},
            model={"tune": "head"},
            options={"policy": "round-robin", "walkers": walkers},
        )
        return float(run_locally(run)["points"][-1]["virtual_seconds"])

    assert seconds(2) == pytest.approx(seconds(1) / 2, rel=0.15)


def test_several_walkers_repeat_with_their_seed(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(
        rounds=3,
        data={"nodes": 6, "train_samples": 90, "partition": "dirichlet"},
        model={"tune": "head"},
        options={"walkers": 3, "merge": True, "memory": 3},
    )
    one, other = run_locally(run), run_locally(run, workers=1)
    assert one["visits"] == other["visits"]
    for a, b in zip(one["points"], other["points"], strict=True):
        assert (a["accuracy"], a["bytes"], a["virtual_seconds"]) == (
            b["accuracy"],
            b["bytes"],
            b["virtual_seconds"],
        )


def held_versions(run: RunConfig) -> tuple[MFDWalk, Context, Packet, Packet]:
    """A node that walker w0 and w1 have left versions at, w1's from three times the samples."""
    walk = build_strategy(run)
    assert isinstance(walk, MFDWalk)
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), run.flat())
    start = initial_tunables(run)
    packets = []
    for index, value in enumerate((1.0, 5.0)):
        first = walk.packed(start, 10, index, 9)
        changes = {name: torch.full_like(tensor, value) for name, tensor in start.items()}
        onward, _ = repack(first, changes, hop=2, samples=100 * (1 + 2 * index))
        Custody(context.state).keep(onward)
        packets.append(onward)
    return walk, context, packets[0], packets[1]


def test_merging_weighs_by_samples_and_counts_a_version_once(
    make_run: Callable[..., RunConfig],
) -> None:
    run = make_run(data={"nodes": 4}, options={"walkers": 2, "merge": True})
    walk, context, own, other = held_versions(run)
    custody = Custody(context.state)
    merged, versions = walk.mixed(own.decoded(), own, custody, context)
    assert versions == [other.version]
    for tensor in merged.values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 1 + 0.75 * 4))
    again, versions = walk.mixed(own.decoded(), own, custody, context)
    assert versions == []
    for name, tensor in own.decoded().items():
        assert torch.equal(again[name], tensor)


def test_average_mixes_in_what_the_node_sent_on_last(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(data={"nodes": 4}, options={"average": 0.25})
    walk, context, own, _ = held_versions(run)
    arrived = {name: torch.full_like(tensor, 9.0) for name, tensor in own.decoded().items()}
    mixed, _ = walk.mixed(arrived, own, Custody(context.state), context)
    for tensor in mixed.values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 7.0))


def test_noised_adverts_keep_exact_counts_off_the_wire(
    make_run: Callable[..., RunConfig],
) -> None:
    """Neither an advert nor what the packet has seen gives the counts away."""
    run = make_run(data={"nodes": 3, "train_samples": 60}, options={"noise_epsilon": 0.5})
    grid, _ = watched(run)
    seen = Packet.from_record(grid.hops[1]).seen
    node = Node(run, int(str(grid.hops[1].config_records["header"]["source"])[1:]))
    assert list(seen) == pytest.approx(announced_counts(node, 0.5).tolist())
    assert list(seen) != node.label_counts.tolist()


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_adverts_travel_as_far_as_asked_and_packets_go_by_neighbours(
    make_run: Callable[..., RunConfig], hops: int
) -> None:
    run = make_run(
        rounds=2,
        data={"nodes": 7, "train_samples": 84},
        model={"tune": "head"},
        network={"topology": "ring"},
        options={"policy": "label-balance", "advert_hops": hops},
    )
    grid, _ = watched(run)
    # Each of 7 nodes hears 2 copies a round, and what is news goes on in one direction.
    assert grid.kinds["query.table"] == 7 * hops
    for content in grid.hops[1:]:
        header = content.config_records["header"]
        a, b = int(str(header["source"])[1:]), int(str(header["destination"])[1:])
        assert (b - a) % 7 in (1, 6)


def test_control_traffic_is_small_change(make_run: Callable[..., RunConfig]) -> None:
    """An advert on a full mesh of ten costs less than 110 bytes a copy, an ack less than 250."""
    run = make_run(rounds=1, data={"nodes": 10, "train_samples": 160}, model={"tune": "head"})
    record = run_locally(run)
    assert record["wire_by_type"]["query.table"] < 90 * 110
    assert record["wire_by_type"]["query.ack"] < 250 * 10


def test_a_rerouted_packet_keeps_its_optimizer(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(
        data={"nodes": 4},
        options={"carry_optimizer": True},
        train={"optimizer": "sgd", "momentum": 0.9},
    )
    _, context, own, _ = held_versions(run)
    state = ArrayRecord({"head.bias:momentum_buffer": torch.ones(10)})
    Custody(context.state).keep(own, RecordDict({"optimizer": state}))
    timer = ConfigRecord({"walker": "w0", "failed": own.destination})
    with LocalGrid(app, 4, run.flat()):
        reply = app(Message(RecordDict({"timer": timer}), 1, "query.again"), context)
    assert "optimizer" in reply.content.array_records


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"walkers": 2}, "from 1 to 1, half of the nodes"),
        ({"select": "best"}, "accepted: all, entropy, least-recent"),
        ({"budget": 0.5}, "needs select"),
        ({"visit_s": 1.0}, "needs select"),
        ({"average": 1.5}, "from 0 to 1"),
        ({"damping_skew": -1.0}, "at least 0"),
        ({"advert_hops": 0}, "from 1 to 16"),
        ({"noise_epsilon": math.inf}, "at least 0 and finite"),
    ],
)
def test_bad_options_are_refused(
    make_run: Callable[..., RunConfig], options: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        build_strategy(make_run("mfd-walk", options=options))
