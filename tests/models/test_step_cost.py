"""A step costs what it costs, whatever was measured before and in whatever thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mfd_flower.config import TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import PromptedViT, fit, training
from tests.models.test_prompts import DIM, vit

CLASSES = 7


@dataclass(frozen=True)
class Case:
    """One kind of update."""

    prompts: int
    dropout: float
    samples: int
    train: TrainConfig

    def model(self) -> PromptedViT:
        return PromptedViT(vit(), CLASSES, self.prompts, dropout=self.dropout)

    def cost(self, model: PromptedViT) -> tuple[float, int]:
        generator = torch.Generator().manual_seed(self.samples)
        images = torch.randn(self.samples, 1, 16, 16, generator=generator)
        labels = torch.randint(CLASSES, (self.samples,), generator=generator)
        stage = model.frozen_stage()
        shard = Samples(model.frozen_outputs(stage, images), labels)
        found = fit(model, shard, self.train, seed=0, stage=stage)
        return found.flops, found.peak_bytes


CASES = st.builds(
    Case,
    prompts=st.sampled_from([0, 2]),
    dropout=st.sampled_from([0.0, 0.5]),
    samples=st.sampled_from([4, 6, 9]),
    train=st.builds(
        TrainConfig,
        optimizer=st.sampled_from(["adamw", "sgd"]),
        batch_size=st.sampled_from([0, 4]),
        logit_adjustment=st.sampled_from([0.0, 1.0]),
        distillation=st.sampled_from([0.0, 2.0]),
        proximal_mu=st.sampled_from([0.0, 0.1]),
        keep_absent_rows=st.booleans(),
    ),
)


@settings(max_examples=5, deadline=None)
@given(cases=st.lists(CASES, min_size=2, max_size=4))
@example(cases=[Case(2, dropout, 4, TrainConfig()) for dropout in (0.0, 0.5, 0.0)])
def test_cost_depends_on_the_update_alone(cases: list[Case]) -> None:
    alone = []
    for case in cases:
        training._step_costs.clear()
        alone.append(case.cost(case.model()))
    training._step_costs.clear()
    models = {(case.prompts, case.dropout): case.model() for case in cases}
    in_a_row = [case.cost(models[case.prompts, case.dropout]) for case in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        side_by_side = list(pool.map(lambda case: case.cost(case.model()), cases))
    assert in_a_row == alone
    assert side_by_side == alone


def test_every_loss_term_is_in_the_cost() -> None:
    plain = Case(0, 0.0, 8, TrainConfig(batch_size=4))
    with_terms = {
        term: Case(0, 0.0, 8, TrainConfig(batch_size=4, **{term: 1.0})).cost(plain.model())
        for term in ("distillation", "proximal_mu")
    }
    flops, peak_bytes = plain.cost(plain.model())
    # The teacher's answers: a forward pass of the head over the shard.
    assert with_terms["distillation"][0] == flops + 2 * 8 * DIM * CLASSES
    assert with_terms["proximal_mu"][0] == flops
    assert all(cost[1] > peak_bytes for cost in with_terms.values())


def test_a_step_saves_its_batch_and_not_the_shard() -> None:
    few, many = (Case(0, 0.0, samples, TrainConfig(batch_size=4)) for samples in (4, 40))
    assert few.cost(few.model())[1] == many.cost(many.model())[1]


def test_how_a_machine_computes_does_not_decide_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of an accelerator are not counted as those of a CPU."""
    case = Case(2, 0.0, 6, TrainConfig(batch_size=4, distillation=2.0))
    cost = case.cost(case.model())
    monkeypatch.setattr(training, "logits_of", lambda *given: torch.zeros(case.samples, CLASSES))
    assert case.cost(case.model()) == cost
