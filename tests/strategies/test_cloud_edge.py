"""Cloud, edge and end: what it is in the cases that are something else, and who is with whom."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from mfd_flower.accounting.wire import measure
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data.united import tasks_of
from mfd_flower.models.inputs import federation_of
from mfd_flower.runtime.runner import run_locally
from mfd_flower.split import domains
from strategies import cloud_edge
from strategies.cloud_edge import CloudEdge, one_of_all
from tests.harness import Trial, trial

SGD = {"optimizer": "sgd", "lr": 0.1, "batch_size": 16, "accelerator": "cpu"}


def run_of(strategy: str = "cloud-edge", rounds: int = 2, **options: Any) -> RunConfig:
    network = options.pop("network", {})
    return RunConfig.from_tables(
        {
            "data": {
                "name": "mnist5k+digits",
                "nodes": 4,
                "train_samples": 100,
                "test_samples": 80,
                "validation": 0.0,
                "partition": "tasks",
            },
            "model": {"backbone": "fm-tiny", "prompts": 2},
            "train": SGD,
            "network": network,
            "strategy": {"name": strategy, "rounds": rounds, "options": json.dumps(options)},
        }
    )


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("edges", [1, 2, 4])
def test_averages_of_averages_are_fedavg(edges: int) -> None:
    """Where all is shared in every round it does not matter who is below which edge server."""
    assert_close(
        trial(run_of(edges=edges, shared="all")).tensors,
        trial(run_of("fedavg")).tensors,
    )


@pytest.mark.parametrize("options", [{"cluster_size": 2}, {"cluster_size": 3, "cuts": [0, 6]}])
def test_one_edge_server_is_hfsl(options: dict[str, Any]) -> None:
    ours, theirs = (
        trial(run_of(strategy, **options, **more))
        for strategy, more in (
            ("cloud-edge", {"edges": 1, "clusters": 1, "shared": "nothing"}),
            ("hfsl", {"clusters": 1}),
        )
    )
    assert_close(ours.tensors, theirs.tensors)
    assert ours.grid.totals()["d2d"] == theirs.grid.totals()["d2d"]


def domain_of(run: RunConfig, nodes: list[str]) -> set[str]:
    federation = federation_of(run)
    tasks = tasks_of(federation.images.classes)
    counts = [federation.label_counts(int(name[1:])) for name in nodes]
    return {tasks[label] for each in counts for label in each.nonzero()[0]}


def strategy_of(found: Trial) -> CloudEdge:
    assert isinstance(found.strategy, CloudEdge)
    return found.strategy


def test_clients_are_with_those_whose_pictures_are_alike() -> None:
    run = run_of(rounds=1, edges=2)
    groups = strategy_of(trial(run)).groups
    assert sorted(len(group) for group in groups) == [2, 2]
    assert all(len(domain_of(run, group)) == 1 for group in groups)


def test_a_client_in_the_wrong_domain_goes_where_its_loss_is_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cloud_edge, "ask_groups", lambda *told: [["n0", "n1", "n2"], ["n3"]])
    run = run_of(rounds=4, edges=2, rematch=3, shared="nothing")
    groups = strategy_of(trial(run)).groups
    assert sorted(map(sorted, groups)) == [["n0", "n1"], ["n2", "n3"]]


@pytest.mark.parametrize(("shared", "inner", "times"), [("body", 1, 4), ("all", 2, 2)])
def test_the_backhaul_carries_each_model_up_and_the_mean_down(
    shared: str, inner: int, times: int
) -> None:
    found = trial(run_of(rounds=4, edges=2, inner=inner, shared=shared))
    names = [n for n in found.tensors if shared == "all" or not n.startswith("head.")]
    model = RecordDict({"arrays": ArrayRecord({n: found.tensors[n] for n in names})})
    totals = found.grid.totals()
    assert totals["backhaul"] == times * 2 * 2 * measure(model).wire
    assert found.grid.wire_by_type["train.cloud"] == totals["backhaul"]
    # It is no part of what Flower's star carries.
    assert totals["relay"] == totals["wire"] - totals["backhaul"]


def test_a_faster_backhaul_takes_less_time() -> None:
    slow, fast = (
        run_locally(run_of(edges=2, network={"backhaul_bps": rate, "latency_s": 0.0}))[
            "seconds_by"
        ]["backhaul"]
        for rate in (1e6, 1e9)
    )
    assert slow == pytest.approx(1000 * fast)


def test_what_is_kept_of_its_own_keeps_domains_apart() -> None:
    """With all of it kept the cloud changes nothing."""
    alone, kept, mixed = (
        strategy_of(trial(run_of(edges=2, **options))).edges
        for options in ({"shared": "nothing"}, {"keep": 1.0}, {"keep": 0.5})
    )
    for one, same, other in zip(alone, kept, mixed, strict=True):
        for name in one:
            assert (one[name].numpy() == same[name].numpy()).all()
        assert any((one[n].numpy() != other[n].numpy()).any() for n in one if n[:4] != "head")


def test_one_model_of_all_has_each_class_from_who_trained_it() -> None:
    start = {
        "head.weight": torch.zeros(4, 3),
        "head.bias": torch.zeros(4),
        "prompts.0": torch.ones(2),
    }
    models = []
    for rows in ([0, 2], [1, 3]):
        model = {name: tensor.clone() for name, tensor in start.items()}
        for row in rows:
            model["head.weight"][row] = row + 1
            model["head.bias"][row] = row + 1
        model["prompts.0"] += rows[0]
        models.append(model)
    found = one_of_all(start, models)
    assert found["head.bias"].tolist() == [1, 2, 3, 4]
    assert found["head.weight"][:, 0].tolist() == [1, 2, 3, 4]
    assert found["prompts.0"].tolist() == [1.5, 1.5]


def test_own_models_are_those_of_the_domain() -> None:
    found = run_locally(run_of(rounds=3, edges=2))
    quality = found["node_quality"]
    assert len({(each["accuracy"], each["own_accuracy"]) for each in quality.values()}) >= 2
    assert all(each["own_accuracy"] > each["accuracy"] for each in quality.values())


def test_who_tells_no_sketch_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CloudEdge.client_actions[domains.SKETCH]

    def lying(message: Any, context: Any) -> Any:
        reply = real(message, context)
        if context.node_config["partition-id"] == 1:
            reply.content["told"] = ConfigRecord({"sketch": "x" * 7})
        return reply

    monkeypatch.setitem(CloudEdge.client_actions, domains.SKETCH, lying)
    found = trial(run_of(rounds=1, edges=2))
    assert {n for group in strategy_of(found).groups for n in group} == {"n0", "n2", "n3"}
    assert any("its sketch is refused: sketch = 'xxxxxxx'" in line for line in found.grid.failures)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"edges": 5}, "options.edges = 5: at most 4: there are 4 nodes"),
        ({"edges": 3, "cluster_size": 2}, "options.edges = 3: at most 2: there are 4 nodes"),
        ({"keep": 1.5}, "options.keep = 1.5: must be at least 0 and at most 1"),
        ({"shared": "some"}, "options.shared = 'some': accepted: body, all, nothing"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_locally(run_of(**options))
