"""A pipelined cluster trains what the model in one piece would, whoever holds which part."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, fit, get_tunables
from mfd_flower.models.stages import SplitStage, split_model
from mfd_flower.split.frames import HEAD, LinkError
from mfd_flower.split.links import Neighbours
from mfd_flower.split.pipeline import StageResult, infer_stage, run_stage
from tests.split.cluster import (
    TIMEOUT_S,
    batches,
    d2d_sent_bytes,
    small_model,
    together,
    train_split,
    twin,
)

SGD = TrainConfig(optimizer="sgd", lr=0.1, batch_size=0, shuffle=False)
SIZES = [8, 8, 5]


def train_whole(model: torch.nn.Module, sizes: list[int], lr: float) -> float:
    """Take a step of plain SGD on each batch, without any code of this package's learners."""
    tunables = [p for p in model.parameters() if p.requires_grad]
    total = 0.0
    for inputs, labels in zip(*batches(sizes, tunables[0].dtype), strict=True):
        loss = F.cross_entropy(model(inputs), labels)
        for parameter, gradient in zip(tunables, torch.autograd.grad(loss, tunables), strict=True):
            parameter.data -= lr * gradient
        total += float(loss.detach()) * len(labels)
    return total / sum(sizes)


@pytest.mark.parametrize(
    ("cuts", "u_shape", "micro_batches", "deep"),
    [
        ([], False, 3, True),
        ([1], False, 1, True),
        ([1, 2], False, 3, True),
        ([0, 1, 2, 3], False, 8, False),
        ([1], True, 3, False),
        ([0, 1, 2], True, 20, True),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["f64", "f32"]
)
def test_a_pipeline_trains_as_the_whole_does(
    cuts: list[int],
    u_shape: bool,
    micro_batches: int,
    deep: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    whole = small_model(deep).to(dtype)
    split = twin(whole)
    loss = train_whole(whole, SIZES, SGD.lr)
    results = train_split(split, cuts, SIZES, SGD, micro_batches=micro_batches, u_shape=u_shape)
    torch.testing.assert_close(get_tunables(split), get_tunables(whole), rtol=0, atol=tolerance)
    assert results[-1].loss == pytest.approx(loss, abs=10 * tolerance)
    assert all(math.isnan(result.loss) for result in results[:-1])
    assert [result.batches for result in results] == [3] * len(results)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(lr=0.01, batch_size=8, shuffle=False, weight_decay=0.1),
        replace(SGD, batch_size=8, momentum=0.9, lr_schedule="cosine", proximal_mu=0.5),
    ],
    ids=["adamw", "proximal"],
)
def test_every_stages_own_optimiser_does_what_one_for_all_does(config: TrainConfig) -> None:
    whole, split = small_model(), small_model()
    inputs, labels = batches(SIZES, torch.float32)
    fit(whole, Samples(torch.cat(inputs), torch.cat(labels)), config, seed=0)
    results = train_split(split, [1, 2], SIZES, config, micro_batches=3)
    torch.testing.assert_close(get_tunables(split), get_tunables(whole), rtol=0, atol=2e-6)
    trained = {name: tensor for part in results for name, tensor in part.tensors.items()}
    torch.testing.assert_close(trained, get_tunables(split), rtol=0, atol=0)


def test_adjusted_logits_reach_the_last_stage() -> None:
    config = replace(SGD, logit_adjustment=1.0)
    whole, split = small_model(), small_model()
    inputs, labels = batches([8], torch.float32)
    fit(whole, Samples(inputs[0], labels[0]), config, seed=0)
    stages = split_model(split, [2])

    def work(position: int, neighbours: Neighbours) -> object:
        learner = SplitStage(stages[position], config, labels[0] if position else None)
        data = {"labels": labels} if position else {"inputs": inputs}
        return run_stage(learner, neighbours, timeout_s=TIMEOUT_S, **data)

    together(["n0", "n1"], work)
    torch.testing.assert_close(get_tunables(split), get_tunables(whole), rtol=0, atol=1e-6)


def test_dropout_is_each_stages_own_and_repeats() -> None:
    ends = []
    for _ in range(2):
        model = small_model(dropout=0.5)
        train_split(model, [1, 2], SIZES, SGD, micro_batches=2)
        ends.append(get_tunables(model))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    plain = small_model()
    train_split(plain, [1, 2], SIZES, SGD, micro_batches=2)
    assert not torch.equal(get_tunables(plain)["prompts.1"], ends[0]["prompts.1"])


def test_bytes_are_smashed_data_forward_and_gradients_back() -> None:
    ends: list[Neighbours] = []
    train_split(small_model(), [1, 2], SIZES, SGD, micro_batches=2, ends=ends)
    ends.sort(key=lambda end: end.position)
    tokens = 5 * 24 * 4 * sum(SIZES)
    frames = 2 * len(SIZES)
    plan = HEAD.size + 8 * (1 + len(SIZES))
    for end in ends[:2]:
        assert end.downstream.sent_bytes == tokens + frames * HEAD.size + plan
        assert end.downstream.received_bytes == tokens + frames * HEAD.size
    # Labels are not on any link: nothing went around behind the last stage.
    assert ends[0].upstream.sent_bytes == ends[0].upstream.received_bytes == 0


def test_no_gradient_travels_to_a_stage_that_nothing_trains_in_or_before() -> None:
    ends: list[Neighbours] = []
    train_split(small_model(deep=False), [0, 2], SIZES, SGD, micro_batches=2, ends=ends)
    ends.sort(key=lambda end: end.position)
    assert ends[0].downstream.received_bytes == 0
    assert ends[1].downstream.received_bytes > 0


@pytest.mark.parametrize(("codec", "share"), [("fp16", 0.5), ("int8", 0.3)])
def test_codecs_save_bytes_and_train_nearly_the_same(codec: str, share: float) -> None:
    sent, trained = {}, {}
    for name in ("fp32", codec):
        ends: list[Neighbours] = []
        model = small_model()
        train_split(model, [1, 2], [64], SGD, micro_batches=2, codec=name, ends=ends)
        trained[name] = torch.cat([t.flatten() for t in get_tunables(model).values()])
        sent[name] = sum(d2d_sent_bytes(end) for end in ends)
    start = torch.cat([t.flatten() for t in get_tunables(small_model()).values()])
    assert sent[codec] < (share + 0.01) * sent["fp32"]
    moved, off = trained["fp32"] - start, trained[codec] - trained["fp32"]
    assert 0 < off.norm() < 0.1 * moved.norm()


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_one_members_failure_ends_all_and_is_named(failing: int) -> None:
    stages = split_model(small_model(), [1, 2, 3])
    inputs, labels = batches([8, 8], torch.float32)

    def work(position: int, neighbours: Neighbours) -> object:
        if position == failing:
            seen = 0

            def break_down(*_: object) -> None:
                nonlocal seen
                seen += 1
                if seen == 6:
                    raise MemoryError("no room left")

            stages[position].register_forward_pre_hook(break_down)
        return run_stage(
            SplitStage(stages[position], SGD),
            neighbours,
            timeout_s=120,
            inputs=inputs if position == 0 else (),
            labels=labels if position == 3 else (),
            micro_batches=4,
        )

    errors = together(["n0", "n1", "n2", "n3"], work, timeout_s=120)
    assert isinstance(errors.pop(failing), MemoryError)
    for error in errors:
        assert isinstance(error, LinkError)
        assert str(error) == f"n{failing} failed: MemoryError: no room left"


def test_labels_that_do_not_fit_are_refused_by_all() -> None:
    stages = split_model(small_model(), [1])
    inputs, labels = batches([8, 4], torch.float32)

    def work(position: int, neighbours: Neighbours) -> object:
        data = {"labels": labels[:1]} if position else {"inputs": inputs}
        learner = SplitStage(stages[position], SGD)
        return run_stage(learner, neighbours, timeout_s=TIMEOUT_S, **data)

    first, last = together(["n0", "n1"], work)
    assert isinstance(last, ConfigError)
    assert str(last) == "labels = [8]: accepted: batches of [8, 4], as the inputs"
    assert isinstance(first, LinkError)
    assert "n1 failed: ConfigError" in str(first)


@pytest.mark.parametrize("micro_batches", [1, 3, 50])
@pytest.mark.parametrize(("cuts", "u_shape"), [([], False), ([1, 2], False), ([0, 2], True)])
def test_inference_returns_the_wholes_logits_to_who_asked(
    cuts: list[int], u_shape: bool, micro_batches: int
) -> None:
    model = small_model().eval()
    (inputs,), _ = batches([13], torch.float32)
    stages = split_model(model, cuts, u_shape=u_shape)
    members = [f"n{i}" for i in range(len(stages) - u_shape)] + ["n0"] * u_shape

    def work(position: int, neighbours: Neighbours) -> StageResult:
        return infer_stage(
            stages[position],
            neighbours,
            timeout_s=TIMEOUT_S,
            inputs=inputs if position == 0 else None,
            micro_batches=micro_batches,
        )

    answers = [a for a in together(members, work) if isinstance(a, StageResult)]
    assert answers[0].logits is not None
    torch.testing.assert_close(answers[0].logits, model(inputs))
    assert [answer.logits for answer in answers[1:]] == [None] * (len(members) - 1)
    assert all(answer.peak_bytes > 0 for answer in answers)


def test_stages_cost_less_than_the_whole_and_early_ones_keep_more_under_way() -> None:
    model = build_model(ModelConfig(), 10, 0)
    generator = torch.Generator().manual_seed(0)
    shard = Samples(torch.randn(16, 1, 28, 28, generator=generator), torch.arange(16) % 10)
    config = replace(SGD, batch_size=16)
    whole = fit(build_model(ModelConfig(), 10, 0), shard, config, seed=0)
    stages = split_model(model, [2, 4])

    def work(position: int, neighbours: Neighbours) -> object:
        return run_stage(
            SplitStage(stages[position], config),
            neighbours,
            timeout_s=TIMEOUT_S,
            inputs=[shard.inputs] if position == 0 else (),
            labels=[shard.labels] if position == 2 else (),
            micro_batches=8,
        )

    parts = together(["n0", "n1", "n2"], work)
    assert sum(part.flops for part in parts) == pytest.approx(whole.flops, rel=0.1)  # type: ignore[union-attr]
    peaks = [part.peak_bytes for part in parts]  # type: ignore[union-attr]
    assert peaks[1] > peaks[2]
    assert max(peaks) < 0.6 * whole.peak_bytes
    answers = together(
        ["n0", "n1", "n2"],
        lambda position, neighbours: infer_stage(
            stages[position],
            neighbours,
            timeout_s=TIMEOUT_S,
            inputs=shard.inputs if position == 0 else None,
            micro_batches=8,
        ),
    )
    # An inference keeps nothing for a backward pass.
    assert all(a.peak_bytes < peak for a, peak in zip(answers, peaks, strict=True))  # type: ignore[union-attr]
