"""Local training does what its settings say, repeatably."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mfd_flower.config import ModelConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, evaluate, fit, get_tunables, set_tunables
from mfd_flower.models.loss import not_true_divergence
from mfd_flower.models.training import logits_of

GENERATOR = torch.Generator().manual_seed(0)
SHARD = Samples(
    torch.randn(24, 1, 28, 28, generator=GENERATOR),
    torch.randint(10, (24,), generator=GENERATOR),
)
HEAD = ModelConfig(tune="head")
SGD = TrainConfig(optimizer="sgd", lr=0.1, batch_size=0)


def test_full_batch_sgd_is_one_gradient_step() -> None:
    model = build_model(HEAD, 10, 0)
    before = get_tunables(model)
    loss = F.cross_entropy(model.eval()(SHARD.inputs), SHARD.labels)
    gradients = torch.autograd.grad(loss, [model.head.weight, model.head.bias])
    result = fit(model, SHARD, SGD, seed=0)
    after = get_tunables(model)
    for name, gradient in zip(("head.weight", "head.bias"), gradients, strict=True):
        torch.testing.assert_close(after[name], before[name] - 0.1 * gradient)
    assert result.loss == pytest.approx(float(loss))
    assert result.samples == 24


@pytest.mark.parametrize("tune", ["prompts", "lora", "head", "full"])
def test_same_seed_same_weights_other_seed_other_order(tune: str) -> None:
    config = TrainConfig(batch_size=8, lr=0.01)
    model = build_model(replace(HEAD, tune=tune, prompt_dropout=0.3), 10, 0)
    start = get_tunables(model)
    ends = []
    for seed in (1, 1, 2):
        set_tunables(model, start)
        torch.manual_seed(seed + len(ends))
        fit(model, SHARD, config, seed=seed)
        ends.append(get_tunables(model))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in start)
    assert any(not torch.equal(ends[0][n], ends[2][n]) for n in start)


def test_proximal_term_holds_the_weights_back() -> None:
    def moved(mu: float) -> float:
        model = build_model(HEAD, 10, 0)
        before = get_tunables(model)
        fit(model, SHARD, replace(SGD, local_epochs=20, proximal_mu=mu), seed=0)
        return float((get_tunables(model)["head.weight"] - before["head.weight"]).norm())

    assert moved(1.0) < 0.8 * moved(0.0)


def test_adjusted_logits_do_not_learn_the_label_mix() -> None:
    """With inputs that say nothing, the bias learns the prior; adjusted, it has no reason to."""
    labels = torch.tensor([0] * 18 + [1] * 6)
    blank = Samples(torch.zeros(24, 1, 28, 28), labels)
    gaps = {}
    for tau in (0.0, 1.0):
        model = build_model(HEAD, 10, 0)
        torch.nn.init.zeros_(model.head.weight)
        kept = replace(blank, inputs=model.frozen_outputs("features", blank.inputs))
        config = replace(SGD, local_epochs=300, lr=0.01, logit_adjustment=tau)
        fit(model, kept, config, seed=0, stage="features")
        logits = model.eval()(blank.inputs[:1])[0]
        gaps[tau] = float(logits[0] - logits[1])
    assert gaps[0.0] == pytest.approx(1.0986, abs=0.1)  # ln(18 / 6)
    assert abs(gaps[1.0]) < 0.1


def test_cosine_schedule_ends_where_it_says() -> None:
    """With a cosine the last of many steps hardly moves; without one it still does."""

    def last_move(schedule: str) -> float:
        config = replace(SGD, lr=0.2, lr_schedule=schedule, shuffle=False)
        long, short = (build_model(HEAD, 10, 0) for _ in range(2))
        steps = 12
        fit(long, SHARD, replace(config, batch_size=2), seed=0)
        part = Samples(SHARD.inputs[: 2 * (steps - 1)], SHARD.labels[: 2 * (steps - 1)])
        fit(short, part, replace(config, batch_size=2), seed=0)
        return float((long.head.bias - short.head.bias).norm())

    assert last_move("cosine") < last_move("constant")


def test_carried_optimizer_state_continues_momentum() -> None:
    """Two fits that hand the state over equal one fit over both halves."""
    config = replace(SGD, momentum=0.9, batch_size=4, shuffle=False)
    halves = [Samples(SHARD.inputs[i : i + 12], SHARD.labels[i : i + 12]) for i in (0, 12)]
    whole, parts = build_model(HEAD, 10, 0), build_model(HEAD, 10, 0)
    fit(whole, SHARD, config, seed=0)
    first = fit(parts, halves[0], config, seed=0)
    fit(parts, halves[1], config, seed=0, optimizer_state=first.optimizer_state)
    torch.testing.assert_close(get_tunables(parts), get_tunables(whole))


def test_evaluate_counts_hits_and_macro_f1() -> None:
    model = build_model(HEAD, 2, 0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([1.0, 0.0]))
    labels = torch.tensor([0, 0, 0, 1])
    found = evaluate(model, Samples(torch.zeros(4, 1, 28, 28), labels))
    assert found.accuracy == pytest.approx(0.75)
    assert found.macro_f1 == pytest.approx((2 * 3 / (2 * 3 + 1)) / 2)
    expected = F.cross_entropy(torch.tensor([[1.0, 0.0]] * 4), labels)
    assert found.loss == pytest.approx(float(expected))


def test_costs_follow_what_trains() -> None:
    """A head on kept features is cheap; frozen weights need no weight gradient."""
    costs = {}
    for tune in ("head", "prompts", "full"):
        model = build_model(replace(HEAD, tune=tune), 10, 0)
        stage = model.frozen_stage()
        kept = replace(SHARD, inputs=model.frozen_outputs(stage, SHARD.inputs))
        costs[tune] = fit(model, kept, TrainConfig(batch_size=8), seed=0, stage=stage)
    # Forward and backward of a linear layer: 2 * 2 * samples * dim * classes.
    assert costs["head"].flops == 2 * 2 * 24 * 96 * 10
    assert costs["prompts"].flops > 1000 * costs["head"].flops
    weights = 678_730 * 4
    assert costs["full"].peak_bytes > 4 * weights
    assert weights < costs["prompts"].peak_bytes < costs["full"].peak_bytes


def test_rows_of_absent_classes_stay_as_they_arrived() -> None:
    model = build_model(HEAD, 10, 0)
    few = Samples(SHARD.inputs, SHARD.labels % 3)
    before = get_tunables(model)
    config = TrainConfig(lr=0.05, batch_size=8, weight_decay=0.1, keep_absent_rows=True)
    fit(model, few, config, seed=0)
    for name, tensor in get_tunables(model).items():
        assert torch.equal(tensor[3:], before[name][3:])
        assert not torch.equal(tensor[:3], before[name][:3])


def test_distillation_keeps_what_the_model_knew_of_other_classes() -> None:
    """Trained on three classes only, the answers on the other seven drift less with it."""
    known = build_model(HEAD, 10, 0)
    fit(known, SHARD, TrainConfig(lr=0.05, batch_size=8, local_epochs=5), seed=0)
    few = Samples(SHARD.inputs, SHARD.labels % 3)
    drift = {}
    for weight in (0.0, 6.0):
        model = build_model(HEAD, 10, 0)
        set_tunables(model, get_tunables(known))
        teacher = logits_of(model, few, "images")
        config = TrainConfig(lr=0.05, batch_size=8, local_epochs=5, distillation=weight)
        fit(model, few, config, seed=0)
        now = logits_of(model, few, "images")
        drift[weight] = float(not_true_divergence(now, teacher, few.labels))
    assert drift[6.0] < 0.5 * drift[0.0]


def test_distillation_leaves_even_labels_alone() -> None:
    even = Samples(SHARD.inputs[:20], torch.arange(20) % 10)
    found = []
    for weight in (0.0, 6.0):
        model = build_model(HEAD, 10, 0)
        fit(model, even, TrainConfig(lr=0.05, batch_size=8, distillation=weight), seed=0)
        found.append(get_tunables(model))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
