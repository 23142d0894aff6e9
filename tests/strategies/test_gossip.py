"""Gossip is the averaging of its papers, made by the nodes: rows of mixing matrices are read off.

Where nodes learn nothing but who they are, one-hot vectors, the model of node i after a round is
row i of the matrix by which the round mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import FaultsConfig, NetworkConfig, RunConfig
from mfd_flower.network import world
from mfd_flower.network.world import World
from mfd_flower.node import Node
from mfd_flower.records import texts, to_bytes
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
from tests.harness import Trial, trial
from tests.scheduled_faults import Fault, Rates

MakeRun = Callable[..., RunConfig]
Matrix = NDArray[np.float64]
HEAD = {"tune": "head"}
RANDOM = {"neighbours": "random", "degree": 2}
N2 = 3
"""Flower's id of node n2."""
GRAPHS = {
    "star": nx.star_graph(4),
    "lollipop": nx.lollipop_graph(4, 3),
    "sparse": nx.connected_watts_strogatz_graph(9, 4, 0.8, seed=1),
}
VARIANTS = pytest.mark.parametrize(
    ("options", "network"),
    [({}, {}), ({}, {"topology": "ring"}), (RANDOM, {})],
    ids=["full", "ring", "random"],
)


@pytest.fixture
def on_graph(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Return a builder of runs on one of `GRAPHS`, in which degrees differ."""

    def build(name: str, rounds: int, **tables: Any) -> RunConfig:
        graph = GRAPHS[name]

        class Drawn(World):
            def __init__(self, config: NetworkConfig, nodes: int, seed: int) -> None:
                super().__init__(config, nodes)

            def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
                return tuple(f"n{other}" for other in sorted(graph[int(address[1:])]))

        monkeypatch.setitem(world.WORLDS, name, Drawn)
        nodes = len(graph)
        data = {"nodes": nodes, "train_samples": 8 * nodes}
        return make_run("gossip", rounds, data=data, model=HEAD, network={"world": name}, **tables)

    return build


def learns_its_name(monkeypatch: pytest.MonkeyPatch, *, once: bool) -> None:
    """Let a local update return the node's one-hot vector: in the first round alone, or in all."""

    def fit(node: Node, tensors: Mapping[str, Tensor], step: int) -> tuple[dict[str, Tensor], None]:
        name = torch.nn.functional.one_hot(torch.tensor(node.index), node.run.data.nodes)
        return {"x": name.double()} if step == 1 or not once else dict(tensors), None

    monkeypatch.setattr(Node, "fit", fit)


def rows(found: Trial, step: int) -> Matrix:
    """Return the nodes' models after a step as one matrix; a node without one has zeros."""
    nodes, models = found.run.data.nodes, found.models[step]
    assert isinstance(models, dict)
    return np.array(
        [
            models[f"n{i}"]["x"].numpy() if f"n{i}" in models else np.zeros(nodes)
            for i in range(nodes)
        ]
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_mixes_by_metropolis_weights(
    on_graph: MakeRun, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They are symmetric and doubly stochastic, nothing passes a link that is not there, and
    a network that only mixes agrees on the mean."""
    learns_its_name(monkeypatch, once=True)
    graph, found = GRAPHS[name], trial(on_graph(name, 60))
    weights = rows(found, 1)
    np.testing.assert_allclose(weights, weights.T, atol=1e-15)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert (weights.diagonal() >= 0).all()
    for i, j in zip(*np.triu_indices(len(graph), 1), strict=True):
        linked = graph.has_edge(i, j)
        larger = max(graph.degree(i), graph.degree(j))
        assert weights[i, j] == pytest.approx(1 / (1 + larger) if linked else 0)
    np.testing.assert_allclose(rows(found, 7), np.linalg.matrix_power(weights, 7))
    np.testing.assert_allclose(rows(found, 60), 1 / len(graph), atol=0.02)


def test_who_draws_sends_to_so_many_others_and_what_comes_weighs_the_same(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns_its_name(monkeypatch, once=False)
    data, rounds = {"nodes": 6}, 60
    found = trial(make_run("gossip", rounds, data=data, model=HEAD, options=RANDOM))
    matrices = np.array([rows(found, step) for step in range(1, rounds + 1)])
    came = matrices > 0
    np.testing.assert_allclose(matrices, came / came.sum(2, keepdims=True))
    assert came[:, range(6), range(6)].all(), "its own"
    assert (came.sum(1) == 1 + 2).all(), "two others get a node's model"
    # Drawn 60 times with 2/5: 24, and 5 standard deviations around it.
    pairs = came.sum(0)[~np.eye(6, dtype=bool)]
    assert (pairs > 24 - 19).all()
    assert (pairs < 24 + 19).all()
    other = make_run("gossip", 1, seed=1, data=data, model=HEAD, options=RANDOM)
    assert not np.array_equal(rows(trial(other), 1), matrices[0])


def test_who_draws_draws_from_its_neighbours(
    on_graph: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns_its_name(monkeypatch, once=False)
    graph = GRAPHS["lollipop"]
    found = trial(on_graph("lollipop", 20, options=RANDOM))
    came = np.array([rows(found, step) for step in range(1, 21)]) > 0
    linked = nx.to_numpy_array(graph) > 0
    assert np.array_equal(came.any(0), linked | np.eye(len(graph), dtype=bool))
    sent = np.minimum(2, [graph.degree(i) for i in range(len(graph))])
    assert (came.sum(1) == 1 + sent).all()


def test_on_a_full_graph_it_is_fedavg_without_a_server(make_run: MakeRun) -> None:
    train = {"optimizer": "sgd", "lr": 0.1}
    run = make_run("gossip", 3, model=HEAD, train=train)
    assert {len(Node(run, i).samples) for i in range(3)} == {16}
    expected = trial(make_run("fedavg", 3, model=HEAD, train=train))
    for ours, theirs in zip(trial(run).models[1:], expected.models[1:], strict=True):
        assert set(ours) == {"n0", "n1", "n2"}
        for model in ours.values():
            assert_close(model, theirs)


@pytest.mark.parametrize(
    ("options", "nodes"), [({"neighbours": "random", "degree": 0}, 3), ({}, 1)]
)
def test_who_sends_nothing_is_local_only(
    make_run: MakeRun, options: dict[str, Any], nodes: int
) -> None:
    data = {"nodes": nodes}
    alone = trial(make_run("local-only", 3, data=data, model=HEAD))
    found = trial(make_run("gossip", 3, data=data, model=HEAD, options=options))
    assert found.grid.totals()["wire"] == 0
    for ours, theirs in zip(found.models[1:], alone.models[1:], strict=True):
        assert {name: bits(model) for name, model in ours.items()} == {
            name: bits(model) for name, model in theirs.items()
        }


@pytest.mark.parametrize(
    ("options", "network", "sent"),
    [
        ({}, {"topology": "full"}, 6 * 5),
        ({}, {"topology": "ring"}, 2 * 6),
        ({}, {"topology": "regular", "degree": 3}, 3 * 6),
        (RANDOM, {}, 2 * 6),
        (RANDOM, {"topology": "ring"}, 2 * 6),
        ({"neighbours": "random", "degree": 9}, {}, 6 * 5),
    ],
)
def test_a_round_is_an_update_of_each_node_and_a_payload_for_each_that_is_sent_to(
    make_run: MakeRun, options: dict[str, Any], network: dict[str, Any], sent: int
) -> None:
    """Over a graph that is twice a payload an edge; the rest is Flower's headers."""
    data = {"nodes": 6, "train_samples": 96}
    run = make_run("gossip", 2, data=data, model=HEAD, options=options, network=network)
    record = run_locally(run)
    totals = record["points"][-1]["bytes"]
    assert totals["payload"] == 2 * sent * 4 * record["tunables"]
    assert totals["d2d"] == totals["wire"] == record["wire_by_type"]["train.model"]
    assert 0 < totals["wire"] - totals["payload"] < 2 * sent * 1600
    assert record["points"][-1]["updates"] == 2 * 6
    assert record["visits"] == 2 * [f"n{i}" for i in range(6)]
    assert record["models"] is None


def test_a_node_takes_in_one_model_after_another(make_run: MakeRun) -> None:
    """All send at once, so that a round lasts as long as the models of one node need."""
    network = {"latency_s": 0.5, "d2d_bps": 1e4, "flops_per_s": 1e18}
    run = make_run("gossip", 1, data={"nodes": 4}, model=HEAD, network=network)
    grid = trial(run).grid
    transfer_s = 0.5 + 8 * grid.totals()["d2d"] / (4 * 3) / 1e4
    assert grid.virtual_seconds == pytest.approx(3 * transfer_s)


@VARIANTS
def test_a_receiver_gets_what_a_sender_handed_out_for_it_and_nothing_else(
    make_run: MakeRun, options: dict[str, Any], network: dict[str, Any]
) -> None:
    """The server half neither averages nor picks."""
    data = {"nodes": 5, "train_samples": 80}
    run = make_run("gossip", 3, data=data, model=HEAD, options=options, network=network)
    grid = trial(run).grid
    handed: dict[tuple[Any, ...], Any] = {}
    for _, reply in grid.of("train.step"):
        assert reply is not None
        sent = reply.content.config_records["sent"]
        for receiver in texts(reply.content.config_records["to"], "receivers"):
            handed[sent["source"], sent["server-round"], receiver] = whole(reply)
    got: dict[tuple[Any, ...], Any] = {}
    for request, _ in grid.of("train.model"):
        assert set(request.content) == {"arrays", "sent"}
        sent = request.content.config_records["sent"]
        receiver = grid.address(request.metadata.dst_node_id)
        got[sent["source"], sent["server-round"], receiver] = whole(request)
    assert got == handed
    assert len(got) == grid.kinds["train.model"]


LOST = {
    "its update": Fault("request-lost", "n1", message_type="train.step"),
    "its word of it": Fault("reply-lost", "n1", message_type="train.step"),
    "for good": Fault("dies-before-training", "n1"),
}


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_lost_node_leaves_its_weight_with_its_neighbours(
    on_graph: MakeRun, monkeypatch: pytest.MonkeyPatch, graph: str, fault: Fault
) -> None:
    """Nothing else changes for the others."""
    learns_its_name(monkeypatch, once=False)
    run = on_graph(graph, 3)
    calm, shaken = trial(run), trial(run, faults=[fault])
    expected = rows(calm, 1)
    others = np.arange(len(expected)) != 1
    expected += np.diag(expected[:, 1])
    expected[:, 1] = 0
    np.testing.assert_allclose(rows(shaken, 1)[others], expected[others])
    assert shaken.steps == [0, 1, 2, 3]
    if fault.kind != "dies-before-training":
        np.testing.assert_array_equal(rows(shaken, 3), rows(calm, 3))


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_node_that_cannot_train_still_averages(
    on_graph: MakeRun, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    learns_its_name(monkeypatch, once=False)
    lost = Fault("request-lost", "n1", occurrence=2, message_type="train.step")
    found = trial(on_graph(graph, 2), faults=[lost])
    expected = rows(found, 1)[1].copy()
    kept = expected[1]
    expected[1] = 0
    expected += kept * rows(found, 1)[1]
    np.testing.assert_allclose(rows(found, 2)[1], expected)


def test_even_weights_are_those_of_what_came(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns_its_name(monkeypatch, once=False)
    run = make_run("gossip", 2, data={"nodes": 6}, model=HEAD, options=RANDOM)
    lost = Fault("request-lost", "n3", message_type="train.step")
    calm, shaken = (rows(trial(run, faults=faults), 1) for faults in ([], [lost]))
    calm[:, 3] = 0
    others = np.arange(6) != 3
    np.testing.assert_allclose(shaken[others], (calm / calm.sum(1, keepdims=True))[others])


@pytest.mark.parametrize("how", ["lost", "too late"])
def test_one_transfer_that_fails_is_missing_at_its_receiver_alone(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    learns_its_name(monkeypatch, once=False)
    run = make_run("gossip", 2, data={"nodes": 4}, model=HEAD)
    lost = Fault("request-lost", "n2", occurrence=4, message_type="train.model")

    def delay(request: Message) -> None:
        sent = request.content.config_records.get("sent", ConfigRecord())
        where = (sent.get("source"), sent.get("server-round"), request.metadata.dst_node_id)
        if how == "too late" and where == ("n0", 2, N2):
            old = ConfigRecord({**sent, "server-round": 1})
            request.content = RecordDict({**request.content, "sent": old})

    shaken = rows(trial(run, [lost] if how == "lost" else [], delay), 2)
    expected = np.full((4, 4), 0.25)
    expected[2] = [0, 0.25, 0.5, 0.25]
    np.testing.assert_allclose(shaken, expected)


@VARIANTS
def test_what_comes_twice_counts_once(
    make_run: MakeRun, options: dict[str, Any], network: dict[str, Any]
) -> None:
    run = make_run("gossip", 3, model=HEAD, options=options, network=network)
    once, twice = trial(run), trial(run, faults=[Rates(FaultsConfig(duplicate=1.0))])
    assert twice.faults.injected == {"request-duplicated": len(twice.grid.requests)}
    assert models_of(twice) == models_of(once)
    assert twice.grid.updates == once.grid.updates == 9


def test_to_be_looked_at_changes_nothing(make_run: MakeRun) -> None:
    run = make_run("gossip", 3, model=HEAD)
    unseen = Rates(FaultsConfig(loss=1.0), message_type="query.own")
    seen, blind = trial(run), trial(run, faults=[unseen])
    assert len(blind.grid.failures) == 9
    assert {name: to_bytes(context.state) for name, context in blind.contexts.items()} == {
        name: to_bytes(context.state) for name, context in seen.contexts.items()
    }


def test_a_node_that_missed_the_first_round_begins_in_the_next(make_run: MakeRun) -> None:
    run = make_run("gossip", 2, model=HEAD)
    lost = Fault("request-lost", "n1", message_type="train.step")
    first, second = trial(run, faults=[lost]).models[1:]
    assert set(first) == {"n0", "n2"}
    assert set(second) == {"n0", "n1", "n2"}


@VARIANTS
def test_two_runs_with_the_same_seed_are_identical(
    make_run: MakeRun, options: dict[str, Any], network: dict[str, Any]
) -> None:
    data = {"nodes": 5, "partition": "dirichlet", "train_samples": 80}
    run = make_run("gossip", 2, data=data, model=HEAD, options=options, network=network)
    first, second = (trial(run, workers=workers) for workers in (1, 3))
    assert models_of(first) == models_of(second)
    assert first.grid.totals() == second.grid.totals()
    assert first.grid.virtual_seconds == second.grid.virtual_seconds


@pytest.mark.parametrize("options", [{}, RANDOM], ids=["graph", "random"])
def test_a_stopped_run_goes_on_where_it_was(
    make_run: MakeRun, tmp_path: Path, options: dict[str, Any]
) -> None:
    faults = {"loss": 0.2, "duplicate": 0.1, "death": 0.1, "downtime": 1}
    run = make_run("gossip", 4, 1, model=HEAD, options=options, faults=faults)
    whole_run = run_locally(run)["points"]
    for stop in (2, 3):

        def on_point(point: dict[str, object], stop: int = stop) -> None:
            if point["step"] == stop:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            run_locally(run, on_point, files=RunFiles(tmp_path, "a", 1, resume=True))
    said: list[str] = []
    files = RunFiles(tmp_path, "a", 1, resume=True)
    again = run_locally(run, files=files, say=said.append)["points"]
    assert said == ["goes on behind step 2"]
    for ours, theirs in zip(again, whole_run, strict=True):
        assert {**ours, "wall_seconds": 0} == {**theirs, "wall_seconds": 0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"degree": 4}, 'options.degree = 4: only with neighbours = "random"'),
        ({"neighbours": "random", "degree": -1}, "options.degree = -1: must be at least 0"),
        ({"neighbours": "all"}, "options.neighbours = 'all': accepted: graph, random"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    make_run: MakeRun, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build_strategy(make_run("gossip", options=options))
    assert said in str(error.value)


def assert_close(found: ArrayRecord, expected: ArrayRecord) -> None:
    ours, theirs = (dict(each.to_torch_state_dict()) for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def bits(model: ArrayRecord) -> dict[str, bytes]:
    return {name: array.data for name, array in model.items()}


def models_of(found: Trial) -> list[dict[str, dict[str, bytes]]]:
    return [{name: bits(model) for name, model in each.items()} for each in found.models[1:]]


def whole(message: Message) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the model in a message and what stands beside it."""
    content = message.content
    return bits(content.array_records["arrays"]), dict(content.config_records["sent"])
