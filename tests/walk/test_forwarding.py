"""Between two nodes that train, others only pass a packet on: unopened, and billed on each link."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import networkx as nx
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.network.worlds import new_world
from mfd_flower.node import initial_tunables
from mfd_flower.packets import PacketError
from mfd_flower.strategy import build_strategy
from mfd_flower.walk import forwarding
from mfd_flower.walk.custody import DATA, PACKET, packet_in
from mfd_flower.walk.forwarding import FORWARD, forward
from mfd_flower.walk.plan import plan_of
from mfd_flower.walk.visit import VIA
from tests.harness import Trial, trial, whole_and_stopped
from tests.scheduled_faults import Fault

NODES = 7
FAR = {"advert_hops": NODES, "forward": True, "memory": 3}


def settings(
    policy: dict[str, Any],
    strategy: str = "mfd-walk",
    rounds: int = 2,
    topology: str = "ring",
    traits: Mapping[str, Any] = MappingProxyType({}),
) -> RunConfig:
    options = {"policy": policy, "traits": dict(traits)}
    return RunConfig.from_tables(
        {
            "data": {
                "name": "digits", "nodes": NODES, "train_samples": 140, "test_samples": 20,
                "partition": "classes", "classes": 2,
            },
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": {"topology": topology, "degree": 4},
            "strategy": {"name": strategy, "rounds": rounds, "options": json.dumps(options)},
        }
    )  # fmt: skip


def graph_of(run: RunConfig) -> nx.Graph:
    world = new_world(run.network, NODES, run.seed)
    return nx.Graph(
        [(f"n{i}", other) for i in range(NODES) for other in world.neighbours(f"n{i}", 0)]
    )


def links_of(found: Trial) -> list[tuple[str, str]]:
    """Over which links packets went, but for the one that the first holder sends itself."""
    grid, went = found.grid, []
    for request in grid.requests:
        if PACKET in request.content.config_records:
            held = request.content.config_records[PACKET]["source"]
            source = request.metadata.group_id or str(held)
            went.append((source, grid.address(request.metadata.dst_node_id)))
    return went[1:]


@pytest.mark.parametrize("topology", ["ring", "x2", "geometric"])
@pytest.mark.parametrize("name", ["label-balance", "interest", "kl-near", "random"])
def test_a_route_does_not_depend_on_the_graph_beneath_it(name: str, topology: str) -> None:
    full = trial(settings({"name": name, "memory": 3}, topology="full"))
    found = trial(settings({"name": name, **FAR}, topology=topology))
    assert found.grid.visits == full.grid.visits
    assert all(torch.equal(found.tensors[key], each) for key, each in full.tensors.items())
    graph = graph_of(found.run)
    went, route = links_of(found), found.grid.visits
    assert all(graph.has_edge(*link) for link in went)
    ways = [nx.shortest_path_length(graph, *pair) for pair in pairwise(route)]
    assert len(went) == sum(ways) > len(ways)


def test_without_it_those_between_train_too() -> None:
    found = trial(settings({"name": "label-balance", "advert_hops": NODES, "memory": 3}))
    graph = graph_of(found.run)
    assert all(graph.has_edge(*pair) for pair in pairwise(found.grid.visits))
    assert "query.forward" not in found.grid.kinds


def test_nobody_between_opens_or_changes_it_and_each_link_is_billed() -> None:
    found = trial(settings({"name": "label-balance", **FAR}))
    grid = found.grid
    passed = [r for r, _ in grid.of("query.forward") if PACKET in r.content.config_records]
    landed = {
        (packet.walker, packet.hop): request.content.config_records[PACKET][DATA]
        for request, _ in grid.of("train.hop")
        for packet in [packet_in(request.content)]
    }
    assert passed
    for request in passed:
        packet = packet_in(request.content)
        assert request.content.config_records[PACKET][DATA] == landed[packet.walker, packet.hop]
    answers = [reply for _, reply in grid.of("query.forward")]
    assert all(reply is not None and list(reply.content) == [FORWARD] for reply in answers)
    size = len(packet_in(passed[0].content).to_bytes())
    assert grid.wire_by_type["query.forward"] > len(passed) * (size - 100)
    control = sum(size for kind, size in grid.wire_by_type.items() if kind.startswith("query"))
    assert grid.totals()["d2d"] == control + grid.wire_by_type["train.hop"]


def test_receipts_go_back_over_as_many_links() -> None:
    found = trial(settings({"name": "label-balance", **FAR}))
    words = [r for r, _ in found.grid.of("query.forward") if "ack" in r.content.config_records]
    graph, route = graph_of(found.run), found.grid.visits
    ways = [nx.shortest_path_length(graph, *pair) for pair in pairwise(route)]
    assert len(words) + len(found.grid.of("query.ack")) == sum(ways)


def test_a_node_between_that_is_gone_is_gone_round_or_left_out() -> None:
    gone = [Fault("asleep", "n3", span=None)]
    found = trial(settings({"name": "label-balance", **FAR}, topology="x2"), gone, timeout=0.3)
    assert "n3" not in found.grid.visits
    assert len(found.grid.visits) == 2 * NODES
    assert len(set(found.grid.visits)) == NODES - 1


def test_a_killed_walk_goes_on_to_the_same_end(tmp_path: Path) -> None:
    run = settings({"name": "label-balance", **FAR})
    whole, again, _ = whole_and_stopped(run, tmp_path, 5)
    assert again == whole


def test_sums_come_to_every_node_once_and_all_others_pass_them_on() -> None:
    found = trial(
        settings({"name": "label-balance", "advert_hops": NODES, "forward": True}, "exact-walk", 1)
    )
    assert sorted(found.grid.visits) == [f"n{node}" for node in range(NODES)]


def asked(links: int, destination: str = "n5", address: int = 0) -> tuple[Message, Context]:
    run = settings({"name": "random", **FAR})
    told = ConfigRecord({"destination": destination, "links": links})
    context = Context(1, 1, {"partition-id": address}, RecordDict(), run.flat())
    return Message(RecordDict({FORWARD: told}), 1, "query.forward"), context


def test_what_goes_in_circles_and_what_has_no_way_ends() -> None:
    with pytest.raises(PacketError, match="links = 0: this message came over 64 links"):
        forward(*asked(0))
    with pytest.raises(PacketError, match="destination = n5: this node knows no way there"):
        forward(*asked(9))
    near = forward(*asked(1, "n1"))
    assert near.content.config_records[FORWARD]["via"] == "n1"


@pytest.mark.parametrize(
    ("policy", "traits", "said"),
    [
        ({"forward": True}, {}, "false with `advert_hops` below 2"),
        ({**FAR}, {"delta": {}}, "false with the trait delta"),
        ({**FAR}, {"ledger": {}}, "false with the trait ledger"),
    ],
)
def test_what_would_speak_to_neighbours_alone_is_refused(
    policy: dict[str, Any], traits: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"options.policy.forward = True: {said}"):
        build_strategy(settings({"name": "interest", **policy}, traits=traits))


@pytest.mark.parametrize("told", [{"via": "n99"}, {"via": 3}, {"via": ""}, {}])
def test_who_names_no_node_for_the_next_link_loses_a_packet_and_no_walk(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """n3 says anything when it is to forward; the others go on."""
    usual = forwarding.next_link

    def odd(visit: Any, destination: str) -> Any:
        name = usual(visit, destination)
        return told.get("via", name) if visit.node.address == "n3" else name

    monkeypatch.setattr(forwarding, "next_link", odd)
    found = trial(settings({"name": "label-balance", **FAR}), timeout=5)
    assert len(found.grid.visits) == 2 * NODES


def test_without_forwarding_nobody_is_sent_round_by_what_a_holder_says() -> None:
    run = settings({"name": "label-balance", "memory": 3}, topology="full")
    ways = forwarding.Ways(None, [f"n{node}" for node in range(NODES)], False)  # type: ignore[arg-type]
    packet = plan_of(run).first_packet(run, initial_tunables(run))
    content = RecordDict({VIA: ConfigRecord({VIA: "n99"})})
    assert ways.last_link(packet, content) == (RecordDict(), "")
