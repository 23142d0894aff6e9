"""Flower's FedAvg, through our client half, is the algorithm of the paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mfd_flower.config import RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, fit, get_tunables
from mfd_flower.node import Node
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import find_strategy
from tests.harness import trial

FULL_BATCH = {"optimizer": "sgd", "lr": 0.3, "batch_size": 0}


def test_full_batch_fedavg_is_centralised_gradient_descent(
    make_run: Callable[..., RunConfig],
) -> None:
    """One full-batch step a node, weighted by samples, is one step on the union."""
    data = {"partition": "dirichlet", "alpha": 0.5, "train_samples": 60}
    run = make_run("fedavg", rounds=4, data=data, train=FULL_BATCH)
    shards = [Node(run, i).samples for i in range(3)]
    assert len({len(s) for s in shards}) > 1, "equal shards would not show the weights"
    union = Samples(torch.cat([s.inputs for s in shards]), torch.cat([s.labels for s in shards]))
    model = build_model(run.model, 10, run.seed)
    fit(
        model,
        union,
        TrainConfig(optimizer="sgd", lr=0.3, batch_size=0, local_epochs=4),
        seed=0,
        stage=model.frozen_stage(),
    )
    found, expected = trial(run).tensors, get_tunables(model)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-4)


def test_short_name_is_flowers_own_class() -> None:
    from flwr.serverapp.strategy import FedAvg

    assert find_strategy("fedavg") is FedAvg


def test_other_strategies_of_flowers_run_unchanged(make_run: Callable[..., RunConfig]) -> None:
    for name, options in (
        ("flwr.serverapp.strategy:FedAdam", {"eta": 0.01}),
        ("flwr.serverapp.strategy:FedProx", {"proximal_mu": 0.1}),
        ("flwr.serverapp.strategy:FedMedian", {}),
    ):
        record = run_locally(make_run(name, rounds=1, options=options))
        points = record["points"]
        assert points[-1]["updates"] == 3
        assert points[-1]["bytes"]["up"] > 0
        assert record["failures"] == []


def test_what_nodes_measured_is_kept(make_run: Callable[..., RunConfig]) -> None:
    """Federated evaluation is billed; what it found stands beside what it cost."""
    told, untold = (
        run_locally(make_run("fedavg", rounds=2, options=options))["points"]
        for options in ({"fraction_evaluate": 1.0}, {})
    )
    assert "by_nodes" not in told[0]
    for ours, theirs in zip(told[1:], untold[1:], strict=True):
        assert set(ours["by_nodes"]) == {"accuracy", "loss", "macro-f1"}
        assert 0 <= ours["by_nodes"]["accuracy"] <= 1
        assert ours["accuracy"] == theirs["accuracy"]
        assert ours["bytes"]["down"] > theirs["bytes"]["down"]
    assert told[1]["by_nodes"] != told[2]["by_nodes"]
    assert all("by_nodes" not in point for point in untold)


def test_fedprox_reaches_the_nodes(make_run: Callable[..., RunConfig]) -> None:
    """A strong proximal term keeps the average near the start; without one it moves away."""
    train = {"optimizer": "sgd", "lr": 0.05, "local_epochs": 5}
    start = get_tunables(build_model(make_run().model, 10, 0))

    def moved(mu: float) -> float:
        name = "flwr.serverapp.strategy:FedProx"
        end = trial(make_run(name, options={"proximal_mu": mu}, train=train)).tensors
        return float(np.sqrt(sum(float((end[n] - start[n]).square().sum()) for n in start)))

    assert moved(10.0) < 0.5 * moved(0.0)
