"""What a node updates of a model: within its budget, the part most tied to its data."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.config import RunConfig
from mfd_flower.models import build_model
from mfd_flower.models.loss import ENTROPY_BATCH, Loss, gradient_entropy
from mfd_flower.node import Node, initial_tunables
from mfd_flower.walk.traits.partial import selected, timely_share

SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 100), min_size=1)


@given(sizes=SIZES, share=st.floats(0, 1), data=st.data())
def test_a_selection_keeps_to_its_budget_and_leaves_out_nothing_better_that_fits(
    sizes: dict[str, int], share: float, data: st.DataObject
) -> None:
    scores = {name: data.draw(st.floats(-5, 5), label=name) for name in sizes}
    taken = selected(scores, sizes, share)
    used, budget = sum(sizes[name] for name in taken), share * sum(sizes.values())
    assert len(taken) >= 1
    if used > budget * (1 + 1e-9):
        assert len(taken) == 1
        assert scores[taken.pop()] == max(scores.values())
        return
    for name in sizes.keys() - taken:
        better = sum(sizes[other] for other in taken if scores[other] >= scores[name])
        assert better + sizes[name] > budget


def test_a_visit_ends_in_time() -> None:
    """The transfer of what was updated takes the seconds left, worked out by hand."""
    assert timely_share(full_bytes=1000, link_bps=8000, left_s=0.5) == pytest.approx(0.5)
    assert timely_share(1000, 8000, -1.25) == 0.0


def test_least_recent_takes_turns() -> None:
    sizes = dict.fromkeys("abcd", 10)
    updated: dict[str, int] = {}
    order = []
    for hop in range(1, 9):
        idle = {name: float(hop - updated.get(name, 0)) for name in sizes}
        (name,) = selected(idle, sizes, 0.25)
        updated[name] = hop
        order.append(name)
    assert order == list("abcdabcd")


def test_entropy_is_that_of_a_gaussian_of_the_mean_square_gradient(
    make_run: Callable[..., RunConfig],
) -> None:
    """A loss scaled by c has gradients scaled by c, hence entropies higher by ln c."""
    run = make_run()
    node = Node(run, 0)
    model = build_model(run.model, 10, 0)
    few = type(node.samples)(
        node.samples.inputs[:ENTROPY_BATCH], node.samples.labels[:ENTROPY_BATCH]
    )
    entropy = gradient_entropy(model, few, Loss(), model.frozen_stage())
    logits = model.forward_from(model.frozen_stage(), few.inputs)
    loss = torch.nn.functional.cross_entropy(logits, few.labels)
    gradient = torch.autograd.grad(loss, model.head.weight)[0]
    variance = gradient.square().mean()
    gaussian = torch.distributions.Normal(0.0, variance.sqrt()).entropy()
    assert entropy["head.weight"] == pytest.approx(float(gaussian), abs=1e-4)
    assert set(entropy) == set(initial_tunables(run))
    assert all(math.isfinite(value) for value in entropy.values())


def test_only_the_chosen_tunables_change(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(train={"momentum": 0.9, "optimizer": "sgd", "weight_decay": 0.1})
    before = initial_tunables(run)
    after, result = Node(run, 0).fit(before, step=1, only={"prompts.1", "head.bias"})
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"prompts.1", "head.bias"}
    assert {key.rpartition(":")[0] for key in result.optimizer_state} == changed
