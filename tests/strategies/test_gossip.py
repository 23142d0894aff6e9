"""Gossip is the averaging of its papers, made by the nodes: rows of mixing matrices are read off.

Where nodes learn nothing but who they are, one-hot vectors, the model of node i after a round is
row i of the matrix by which the round mixed.
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message

from mfd_flower.checks import ConfigError
from mfd_flower.node import Node
from mfd_flower.records import texts
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
from tests.harness import trial
from tests.strategies.mixing import (
    GRAPHS,
    HEAD,
    RANDOM,
    VARIANTS,
    MakeRun,
    bits,
    learns_its_name,
    models_of,
    rows,
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


def whole(message: Message) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the model in a message and what stands beside it."""
    content = message.content
    return bits(content.array_records["arrays"]), dict(content.config_records["sent"])
