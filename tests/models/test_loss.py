"""One loss for training, entropy of gradients, split stages and metrics."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.config import TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import Classifier, PromptedViT
from mfd_flower.models.loss import (
    ENTROPY_BATCH,
    Loss,
    gradient_entropy,
    label_skew,
    not_true_divergence,
)
from mfd_flower.models.stages import SplitStage, split_model
from mfd_flower.models.training import logits_of
from mfd_flower.models.tunables import named_tunables
from tests.models.test_prompts import vit

GENERATOR = torch.Generator().manual_seed(0)
MODEL = PromptedViT(vit(), 10, 2).eval()
TOKENS = MODEL.frozen_outputs("tokens", torch.randn(ENTROPY_BATCH, 1, 16, 16, generator=GENERATOR))
LABELS = st.lists(st.integers(0, 9), min_size=ENTROPY_BATCH, max_size=ENTROPY_BATCH)
TERMS = st.builds(
    TrainConfig,
    logit_adjustment=st.floats(0, 3),
    distillation=st.floats(0, 3),
    proximal_mu=st.floats(0, 1),
)


def gradients(loss: Tensor) -> dict[str, Tensor]:
    named = dict(named_tunables(MODEL))
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@settings(max_examples=10, deadline=None)
@given(config=TERMS, labels=LABELS)
def test_entropy_is_of_the_training_losss_gradient(config: TrainConfig, labels: list[int]) -> None:
    """Whatever the terms: at the arriving model two of them have no gradient."""
    samples = Samples(TOKENS, torch.tensor(labels))
    classifier = Classifier(MODEL, config, "tokens", samples.labels)
    teacher = logits_of(MODEL, samples, "tokens")
    trained = gradients(classifier.loss(samples.inputs, samples.labels, teacher))
    found = gradient_entropy(MODEL, samples, Loss.of(config, samples.labels, MODEL), "tokens")
    for name, gradient in trained.items():
        variance = float(gradient.square().mean())
        assert found[name] == pytest.approx(
            0.5 * math.log(2 * math.pi * math.e * variance), abs=1e-3
        )


@settings(max_examples=10, deadline=None)
@given(adjustment=st.floats(0, 3), labels=LABELS)
def test_the_last_stage_of_a_split_has_the_wholes_loss(
    adjustment: float, labels: list[int]
) -> None:
    config, target = TrainConfig(logit_adjustment=adjustment), torch.tensor(labels)
    first, last = split_model(MODEL, [2], inputs="tokens")
    split = SplitStage(last, config, target).loss(last(first(TOKENS)), target)
    whole = Classifier(MODEL, config, "tokens", target).loss(TOKENS, target)
    torch.testing.assert_close(split, whole)


@settings(max_examples=20, deadline=None)
@given(labels=LABELS, weight=st.floats(0.1, 3))
def test_adjusted_cross_entropy_is_that_of_the_posterior(labels: list[int], weight: float) -> None:
    """Logits that say nothing are worth the smoothed label shares to the power of the weight."""
    target = torch.tensor(labels)
    loss = Loss.of(TrainConfig(logit_adjustment=weight), target, MODEL)
    shares = (torch.bincount(target, minlength=10) + 0.5) ** weight
    expected = -(shares / shares.sum()).log()[target]
    found = loss.cross_entropy(torch.zeros(len(target), 10), target, "none")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss.of_batch(torch.zeros(len(target), 10), target), expected.mean())


def test_not_true_divergence_leaves_the_true_class_free() -> None:
    """Zero for a student that differs from its teacher on the true class alone."""
    teacher = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6)
    moved = teacher + 3 * F.one_hot(labels, 10)
    assert float(not_true_divergence(moved, teacher, labels)) == pytest.approx(0, abs=1e-6)
    moved[:, 9] += 1
    assert float(not_true_divergence(moved, teacher, labels)) > 0.01


def test_label_skew_goes_from_even_to_one_class() -> None:
    assert label_skew(torch.arange(70) % 10, 10) == pytest.approx(0)
    assert label_skew(torch.full((3,), 3), 10) == pytest.approx(1)
    halves = torch.tensor([0, 5, 5, 0])
    assert label_skew(halves, 10) == pytest.approx(1 - math.log(2) / math.log(10))
