"""Unlike models teach each other where they meet, and never mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data.samples import Samples
from mfd_flower.models.loss import Loss, Teacher, soft_divergence
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.node import Node, evaluate_tunables, initial_tunables
from mfd_flower.profiles import own_settings, profile_of
from mfd_flower.records import tensors_of
from mfd_flower.runtime.node_quality import node_quality
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from tests.harness import trial

CNN = {"backbone": "random", "arch": "small-cnn", "tune": "full"}
HALF = [{"name": "cnn", "share": 0.5, "model": CNN}]


def run_of(trait: dict[str, Any], rounds: int = 2, **other: Any) -> RunConfig:
    options = {"policy": "round-robin", "traits": {"teach": trait, **other.pop("traits", {})}}
    data = {"name": "digits", "nodes": 4, "train_samples": 160, "test_samples": 100}
    return RunConfig.from_tables(
        {
            "data": {**data, "validation": 0.0},
            "train": {"lr": 0.01, "local_epochs": 3},
            "strategy": {"name": "mfd-walk", "rounds": rounds, "options": json.dumps(options)},
            "profiles": json.dumps(HALF),
            **other,
        }
    )


def test_every_node_keeps_a_model_of_its_own(tmp_path: Path) -> None:
    run = run_of({})
    found = run_locally(run, files=RunFiles(tmp_path, "teach"))
    for index in range(4):
        own, name = own_settings(run, index), f"n{index}"
        kept = TrainedModel.load(tmp_path / found["own_models"][name])
        assert kept.about.model == own.model
        measured = evaluate_tunables(own, kept.tensors)
        assert measured.accuracy == pytest.approx(found["node_quality"][name]["accuracy"])
    assert found["model"] is not None
    assert found["points"][-1]["bytes"]["d2d"] == found["points"][-1]["bytes"]["wire"]


def test_a_node_that_is_not_heard_of_at_the_end_costs_no_run() -> None:
    """Its own model is of another kind than the common one: nothing is known of it."""
    run = run_of({})
    found = node_quality(run, {"": ArrayRecord(dict(initial_tunables(run)))})
    for index in range(4):
        known = found[f"n{index}"]["accuracy"] is not None
        assert known is (profile_of(run, index) is None)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_rows_are_kept_only_where_labels_count(weight: float) -> None:
    run = run_of({}, train={"lr": 0.01, "keep_absent_rows": True})
    node, begun = Node(run, 0), initial_tunables(run)
    samples = Samples(node.samples.inputs[:], torch.zeros(node.num_samples, dtype=torch.long))
    teacher = Teacher(torch.randn(node.num_samples, 10), weight)
    trained, _ = node.fit(begun, 1, samples=samples, teacher=teacher)
    kept = torch.equal(trained["head.bias"][1:], begun["head.bias"][1:])
    assert kept is (weight < 1)


def test_without_a_teacher_it_is_local_training_and_the_plain_walk() -> None:
    """A model that nobody reaches the bar of teaches nothing."""
    alone = run_of({"least_accuracy": 1.0}, train={"lr": 1e-4, "local_epochs": 1})
    found = trial(alone)
    plain = {**alone.flat(), "profiles": "[]"}
    plain["strategy.options"] = json.dumps({"policy": "round-robin"})
    walked = trial(RunConfig.from_flat(plain))
    assert all(torch.equal(t, walked.tensors[n]) for n, t in found.tensors.items())


@pytest.mark.parametrize(("weight", "same"), [(1.0, True), (0.5, False)])
def test_with_all_weight_on_teachers_labels_count_for_nothing(weight: float, same: bool) -> None:
    trait = {"weight": weight, "least_accuracy": 0.0}
    one, other = (
        trial(run_of(trait, 1, train={"lr": 0.01, "logit_adjustment": adjustment}))
        for adjustment in (0.0, 1.0)
    )
    assert all(torch.equal(t, other.tensors[n]) for n, t in one.tensors.items()) is same
    own = [
        {n: tensors_of(c.state.array_records["own-tunables"]) for n, c in each.contexts.items()}
        for each in (one, other)
    ]
    equal = all(torch.equal(t, own[1][n][k]) for n, kept in own[0].items() for k, t in kept.items())
    assert equal is same


def test_the_divergence_is_hintons() -> None:
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    t = 3.0
    p, q = (torch.softmax(x / t, 1) for x in (teacher, student))
    expected = t**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(soft_divergence(student, teacher, t), expected)
    labels = torch.tensor([0, 1, 2, 3, 4])
    loss = Loss(taught=0.3, temperature=t).of_batch(student, labels, teacher)
    hard = torch.nn.functional.cross_entropy(student, labels)
    torch.testing.assert_close(loss, 0.7 * hard + 0.3 * expected)
    assert Teacher(teacher).weight == 0.9


@pytest.mark.parametrize("trait", ["resize", "gate"])
def test_it_excludes_what_needs_one_model(trait: str) -> None:
    with pytest.raises(ConfigError, match=trait):
        run_locally(run_of({}, traits={trait: {}}))
