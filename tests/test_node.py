"""A node is found cheaply, and knows its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from mfd_flower import node as module
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.models import PromptedViT
from mfd_flower.node import Node, evaluate_tunables, initial_tunables
from mfd_flower.run_checks import check_run


def context_of(run: RunConfig, index: int) -> Context:
    """Return a context as an engine makes it anew for each message."""
    settings = {**run.flat(), "out": "/somewhere"}
    return Context(1, index + 1, {"partition-id": index}, RecordDict(), settings)


def test_settings_are_read_once_a_run(
    make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    true = RunConfig.from_flat
    monkeypatch.setattr(RunConfig, "from_flat", lambda flat: (read.append(flat), true(flat))[1])
    module._run_here.cache_clear()
    first, second = make_run(seed=1), make_run(seed=2)
    for _ in range(3):
        for run in (first, second):
            for index in range(3):
                found = Node.of(context_of(run, index))
                assert found == Node(run, index)
                assert found is Node.of(context_of(run, index))
    assert len(read) == 2


def test_a_node_counts_its_own_labels(make_run: Callable[..., RunConfig]) -> None:
    run = make_run()
    counts = [Node(run, index).label_counts for index in range(3)]
    for index, found in enumerate(counts):
        labels = Node(run, index).samples.labels
        assert found.tolist() == np.bincount(labels, minlength=10).tolist()
        assert Node(run, index).address == f"n{index}"
    with pytest.raises(ValueError, match="read-only"):
        counts[0][0] = 1
    total = sum(len(share) for share in load_federation(run.data, 0).shares)
    assert sum(int(found.sum()) for found in counts) == total


def test_its_own_losses_are_those_of_its_evaluation(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(train={"logit_adjustment": 1.0})
    node, start = Node(run, 1), initial_tunables(run)
    losses, correct = node.sample_losses(start)
    found = node.evaluate(start)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found.accuracy == pytest.approx(float(correct.mean()))
    assert found == evaluate_tunables(run, start, node.samples)


@pytest.mark.parametrize(
    ("tables", "field"),
    [
        ({"data": {"name": "cifar"}}, "data.name"),
        ({"model": {"backbone": "resnet"}}, "model.backbone"),
        ({"network": {"world": "mars"}}, "network.world"),
        ({"train": {"optimizer": "lion"}}, "train.optimizer"),
        ({"threat": {"kind": "bribe"}}, "threat.kind"),
    ],
)
def test_a_name_that_is_in_no_table_is_refused_before_anything_runs(
    make_run: Callable[..., RunConfig], tables: dict[str, dict[str, str]], field: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} = '\w+': .*accepted: ") as caught:
        check_run(make_run(**tables))
    assert "\n" not in str(caught.value)


def test_a_model_that_makes_no_use_of_what_it_tunes_is_refused_before_anything_runs(
    make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    check_run(run)
    monkeypatch.setattr(PromptedViT, "prompts_of", lambda self, *block: None)
    line = r"^model\.tune = 'prompts': this backbone makes no use of prompts\.0$"
    with pytest.raises(ConfigError, match=line):
        check_run(run)
