"""HFSL is the algorithms it joins: split learning, FedAvg, and sequential training."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.residents import model_for
from mfd_flower.models.stages import split_model
from mfd_flower.node import Node, initial_tunables
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy, parameters_of
from strategies.hfsl import HFSL
from tests.harness import Tap, trial

SGD = {"optimizer": "sgd", "lr": 0.3, "batch_size": 8, "local_epochs": 2}
MakeRun = Callable[..., RunConfig]


def trained(run: RunConfig) -> tuple[dict[str, Tensor], Tap]:
    found = trial(run)
    assert not found.grid.failures
    return found.tensors, found.grid


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("train", [SGD, {"lr": 0.003}], ids=["sgd", "adamw"])
def test_clusters_of_one_node_are_fedavg(make_run: MakeRun, train: dict[str, Any]) -> None:
    data = {"partition": "dirichlet", "train_samples": 60}
    options = {"clusters": 3, "cluster_size": 1, "micro_batches": 1}
    split = make_run("hfsl", rounds=2, data=data, train=train, options=options)
    fedavg = make_run("fedavg", rounds=2, data=data, train=train)
    assert len({len(Node(split, i).samples) for i in range(3)}) > 1
    (found, ours), (expected, theirs) = trained(split), trained(fedavg)
    assert_close(found, expected)
    assert ours.totals()["payload"] == theirs.totals()["payload"]
    assert (ours.updates, ours.flops) == (theirs.updates, theirs.flops)
    assert ours.peak_node_bytes == pytest.approx(theirs.peak_node_bytes, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "tables"),
    [
        ({"cluster_size": 3}, {}),
        ({"cluster_size": 2, "cuts": [5], "u_shape": True}, {}),
        ({"cluster_size": 5, "edge_stages": [1, 4]}, {"train": {**SGD, "logit_adjustment": 1.0}}),
        ({"cluster_size": 2, "cuts": "planned"}, {"model": {"tune": "lora"}}),
        ({"cluster_size": 3, "micro_batches": 3}, {"model": {"tune": "full"}}),
        ({"cluster_size": 3}, {"model": {"deep": False}}),
        ({"cluster_size": 1, "u_shape": True}, {"train": {**SGD, "batch_size": 0}}),
        ({"cluster_size": 3}, {"model": {"prompt_from": 2}}),
        ({"cluster_size": 2, "cuts": "planned"}, {"model": {"prompt_from": 4, "deep": False}}),
        ({"cluster_size": 3, "cuts": [0, 6]}, {}),
        ({"cluster_size": 3, "cuts": [0, 6]}, {"model": {"tune": "full"}}),
        ({"cluster_size": 2, "cuts": [0], "u_shape": True}, {"model": {"tune": "lora"}}),
        ({"cluster_size": 3, "cuts": [2, 6]}, {"model": {"prompt_from": 2}}),
    ],
    ids=[
        *("plain", "u-shape", "edge", "lora", "full", "shallow", "alone", "later", "planned later"),
        *("ends alone", "ends alone, full", "emb alone, u-shape", "ends alone, later"),
    ],
)
def test_one_cluster_is_centralised_training_on_its_firsts_data(
    make_run: MakeRun, options: dict[str, Any], tables: dict[str, Any]
) -> None:
    train = {**SGD, **tables.pop("train", {})}
    if tables.get("model", {}).get("tune") == "full":
        train["lr"] = 0.01
    run = make_run("hfsl", rounds=2, options=options, train=train, **tables)
    tensors = dict(initial_tunables(run))
    for step in (1, 2):
        tensors, _ = Node(run, 0).fit(tensors, step=step)
    assert_close(trained(run)[0], tensors)


@pytest.mark.parametrize("members", range(1, 9))
def test_whoever_is_left_of_emb_blocks_and_head_shares_them(
    make_run: MakeRun, members: int
) -> None:
    """Of six blocks: a cluster of eight that loses members goes on with cuts that there are."""
    data = {"nodes": 8, "train_samples": 80}
    options = {"cluster_size": 8, "cuts": [0, 1, 2, 3, 4, 5, 6]}
    strategy = build_strategy(make_run("hfsl", data=data, options=options))
    assert isinstance(strategy, HFSL)
    cuts = strategy.cuts(members)
    assert cuts is not None
    stages = split_model(model_for(strategy.run), cuts)
    assert len(stages) == members
    assert [block for stage in stages for block in stage.blocks] == list(range(6))


def test_who_has_emb_alone_needs_next_to_nothing_and_gets_no_gradient(make_run: MakeRun) -> None:
    """GaisNet's first client: nothing trains in front of the first cut, so nothing comes back."""
    found = trial(make_run("hfsl", options={"cluster_size": 3, "cuts": [0, 6]}))
    peaks = found.grid.node_peak_bytes
    assert peaks["n0"] < 0.05 * peaks["n1"]
    assert peaks["n2"] < 0.05 * peaks["n1"]
    # With all of it trained a gradient as large as the tokens comes back.
    options = {"cluster_size": 2, "cuts": [0]}
    ways = (make_run("hfsl", options=options, model={"tune": tune}) for tune in ("prompts", "full"))
    one_way, both = (trial(run).grid.totals()["d2d"] for run in ways)
    assert one_way == pytest.approx(both / 2, rel=0.03)


@pytest.mark.parametrize("prompt_from", [0, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_even_cuts_give_members_alike_many_blocks_that_run(
    make_run: MakeRun, prompt_from: int, size: int
) -> None:
    model = {"prompt_from": prompt_from}
    strategy = build_strategy(make_run("hfsl", model=model, options={"cluster_size": size}))
    assert isinstance(strategy, HFSL)
    cuts = strategy.cuts(size)
    assert cuts is not None
    bounds = [prompt_from, *cuts, 6]
    counts = [stop - start for start, stop in itertools.pairwise(bounds)]
    assert max(counts) - min(counts) <= 1


def test_a_cluster_that_rotates_is_a_walk_over_its_members(make_run: MakeRun) -> None:
    options = {"cluster_size": 3, "rotate": True}
    run = make_run("hfsl", rounds=4, options=options, train=SGD)
    tensors = dict(initial_tunables(run))
    for step in range(1, 5):
        tensors, _ = Node(run, (step - 1) % 3).fit(tensors, step=step)
    assert_close(trained(run)[0], tensors)


def test_clusters_are_averaged_module_by_module_by_their_firsts_samples(make_run: MakeRun) -> None:
    data = {"nodes": 4, "partition": "dirichlet", "train_samples": 60}
    options = {"clusters": 2, "cluster_size": 2}
    run = make_run("hfsl", data=data, options=options, train=SGD)
    firsts = [Node(run, 0), Node(run, 2)]
    weights = [len(node.samples) for node in firsts]
    assert weights[0] != weights[1]
    fits = [node.fit(dict(initial_tunables(run)), step=1)[0] for node in firsts]
    expected = {
        name: (weights[0] * fits[0][name] + weights[1] * fits[1][name]) / sum(weights)
        for name in fits[0]
    }
    assert_close(trained(run)[0], expected)


def test_options_and_defaults_are_read_from_the_dataclass() -> None:
    found = parameters_of(HFSL)
    defaults = [found[name]["default"] for name in ("clusters", "cuts", "edge_stages")]
    assert defaults == [1, "even", []]
    assert "run" not in found


def test_two_runs_with_one_seed_are_identical(make_run: MakeRun) -> None:
    options = {"cluster_size": 3, "codec": "int8"}
    model = {"prompt_dropout": 0.2}
    run = make_run("hfsl", rounds=2, options=options, model=model)
    first, second = run_locally(run, workers=1), run_locally(run, workers=4)
    for one, two in zip(first["points"], second["points"], strict=True):
        del one["wall_seconds"], two["wall_seconds"]
    assert first == second


def test_links_are_billed_by_kind_and_memory_is_smaller(make_run: MakeRun) -> None:
    train = {**SGD, "batch_size": 16}
    plain = run_locally(make_run("hfsl", train=train, options={"cluster_size": 3}))
    edge = run_locally(
        make_run("hfsl", train=train, options={"cluster_size": 3, "edge_stages": [1]})
    )
    whole = run_locally(make_run("fedavg", train=train))
    ours, theirs = plain["points"][-1]["bytes"], edge["points"][-1]["bytes"]
    for totals in (ours, theirs):
        assert totals["up"] + totals["down"] + totals["d2d"] == totals["wire"]
    # Two cuts, 16 samples, 2 epochs, 17 tokens of 96 numbers, there and back, and some heads.
    cut_bytes = 16 * 2 * 17 * 96 * 4 * 2
    assert ours["d2d"] == pytest.approx(2 * cut_bytes, rel=0.01)
    # Between clients only labels are left, from the first to the last.
    assert 16 * 2 * 8 < theirs["d2d"] < 16 * 2 * 8 + 100
    moved = theirs["up"] + theirs["down"] - ours["up"] - ours["down"]
    assert moved == pytest.approx(2 * cut_bytes, rel=0.02)
    peaks = plain["node_peak_bytes"]
    assert set(peaks) == {"n0", "n1", "n2"}
    assert max(peaks.values()) < 0.7 * whole["points"][-1]["peak_node_bytes"]
    first = make_run("fedavg", train=train)
    flops = Node(first, 0).fit_flops()
    assert sum(plain["node_flops"].values()) == pytest.approx(flops, rel=0.1)
    assert plain["points"][-1]["flops"] == pytest.approx(edge["points"][-1]["flops"])


@pytest.mark.parametrize(
    ("options", "tables", "said"),
    [
        ({"clusters": 0}, {}, "options.clusters = 0: must be at least 1"),
        ({"form": "best"}, {}, "options.form = 'best': accepted: order, planned"),
        (
            {"form": "planned", "cluster_size": 3, "edge_stages": [1]},
            {},
            "options.edge_stages = [1]: none where planned",
        ),
        ({"clusters": 2, "cluster_size": 2}, {}, "options.clusters = 2: 2 nodes in each"),
        ({"cluster_size": 7}, {}, "options.cluster_size = 7: must be at most 6"),
        ({"cluster_size": 2, "cuts": [7]}, {}, "options.cuts = [7]: must be rising"),
        (
            {"cluster_size": 2, "cuts": [6], "u_shape": True},
            {},
            "options.cuts = [6]: must be rising whole numbers from 0 to 5",
        ),
        (
            {"cluster_size": 2, "cuts": [0], "form": "planned"},
            {},
            "options.cuts = [0]: must be rising whole numbers from 1 to 5",
        ),
        (
            {"cluster_size": 9, "cuts": [0, 1, 2, 3, 4, 5, 6, 7]},
            {},
            "options.cluster_size = 9: must be at most 8, the blocks that run, Emb and head",
        ),
        (
            {"cluster_size": 2, "cuts": [2]},
            {"model": {"prompt_from": 3}},
            "options.cuts = [2]: must be rising whole numbers from 3 to 6",
        ),
        (
            {"cluster_size": 4},
            {"model": {"prompt_from": 3}},
            "options.cluster_size = 4: must be at most 3, the blocks that run",
        ),
        ({"cluster_size": 3, "cuts": [2, 1]}, {}, "options.cuts = [2, 1]: must be rising"),
        ({"cluster_size": 3, "cuts": [2]}, {}, "options.cuts = [2]: must be 2, one less"),
        ({"cuts": "best"}, {}, "options.cuts = 'best': accepted: even, planned or a list"),
        ({"cuts": [1, 2.5]}, {}, "options.cuts[1] = 2.5: must be a whole number"),
        ({"edge_stages": 1}, {}, "options.edge_stages = 1: must be a list"),
        (
            {"micro_batches": 2048},
            {},
            "options.micro_batches = 2048: must be at least 1 and at most",
        ),
        ({"cluster_size": 3, "edge_stages": [0]}, {}, "options.edge_stages = [0]: must be rising"),
        (
            {"micro_batches": 2.5},
            {},
            "strategies.options.micro_batches = 2.5: must be a whole number",
        ),
        ({"codec": "fp8"}, {}, "options.codec = 'fp8': must be one of fp32"),
        ({"link": "tcp"}, {}, "options.link = 'tcp': accepted: queue, gloo"),
        ({"u_shape": 1}, {}, "strategies.options.u_shape = 1: must be true or false"),
        ({"meet_s": 0}, {}, "options.meet_s = 0.0: must be above 0"),
        ({"stages": 3}, {}, "strategies.options.stages = 3: hfsl accepts: clusters"),
        ({}, {"model": {"tune": "head"}}, "model.tune = 'head': accepted by hfsl: prompts"),
        ({}, {"network": {"topology": "ring"}}, "network.topology = 'ring': accepted by hfsl"),
        ({}, {"threat": {"kind": "noise"}}, "threat.kind = 'noise': accepted by hfsl: no attack"),
        ({}, {"faults": {"duplicate": 0.1}}, "faults.duplicate = 0.1: accepted by hfsl: 0"),
        ({}, {"train": {"distillation": 0.5}}, "train.distillation = 0.5: accepted by hfsl: 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_run: MakeRun, options: dict[str, Any], tables: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        build_strategy(make_run("hfsl", options=options, **tables))
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
