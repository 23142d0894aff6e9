"""An optimiser is one entry: its name, its keywords, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, fit
from mfd_flower.models.optimizers import OPTIMIZERS, Optimizer
from mfd_flower.models.stages import split_model
from mfd_flower.node import Node, initial_tunables
from mfd_flower.run_checks import check_run
from mfd_flower.split.costs import training_cost

SHARD = Samples(torch.randn(8, 1, 28, 28), torch.arange(8))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_are_what_the_optimiser_keeps(name: str, momentum: float) -> None:
    config = TrainConfig(optimizer=name, momentum=momentum, batch_size=8)
    model = build_model(ModelConfig(tune="head"), 10, 0)
    state = fit(model, SHARD, config, seed=0).optimizer_state
    kept = [key for key in state if key.startswith("head.weight:") and state[key].dim() == 2]
    assert len(kept) == OPTIMIZERS[name].slots(config)


def test_a_new_entry_is_all_that_a_new_optimiser_needs(
    make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Optimizer(torch.optim.Adagrad, ("lr",), lambda config: 1)
    monkeypatch.setitem(OPTIMIZERS, "adagrad", entry)
    run, plain = (
        make_run(train={"optimizer": name, "momentum": 0.0}) for name in ("adagrad", "sgd")
    )
    check_run(run)
    start = initial_tunables(run)
    (ours, one), (theirs, other) = (Node(r, 0).fit(start, step=1) for r in (run, plain))
    assert any(not torch.equal(ours[name], theirs[name]) for name in start)
    tunable_bytes = sum(tensor.nbytes for tensor in start.values())
    assert one.peak_bytes - other.peak_bytes == tunable_bytes
    stage = split_model(build_model(run.model, 10, 0), [])[0]
    costs = [training_cost(stage, SHARD.inputs, r.train, 1) for r in (run, plain)]
    assert costs[0].peak_bytes - costs[1].peak_bytes == tunable_bytes


def test_an_unknown_name_is_refused_in_one_line(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(train={"optimizer": "adam"})
    with pytest.raises(ConfigError) as caught:
        check_run(run)
    assert str(caught.value) == f"train.optimizer = 'adam': accepted: {', '.join(OPTIMIZERS)}"
    with pytest.raises(ConfigError, match=r"train\.optimizer"):
        fit(build_model(ModelConfig(), 10, 0), SHARD, run.train, seed=0)
