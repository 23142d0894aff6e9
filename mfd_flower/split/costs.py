"""Computing cost and memory of one stage, measured on a micro-batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mfd_flower.accounting.costs import StepCost, measure_step
from mfd_flower.config import TrainConfig
from mfd_flower.models.optimizers import optimizer_of
from mfd_flower.models.stages import Stage


def training_cost(
    stage: Stage, inputs: Tensor, config: TrainConfig, micro_batches: int
) -> StepCost:
    """Measure the forward and backward pass of a micro-batch through a stage.

    Parameters
    ----------
    stage : Stage
        Its gradients are dropped afterwards; its weights are untouched.
    inputs : Tensor
        Of the micro-batch. They require a gradient if something in front of the stage trains.
    config : TrainConfig
        Its optimiser decides how much state is kept.
    micro_batches : int
        How many wait for their backward pass at the same time.

    Returns
    -------
    StepCost
        FLOPs of this micro-batch; memory of weights, gradients and optimiser state, and of what
        `micro_batches` forward passes save.
    """
    slots = optimizer_of(config).slots(config)
    trained = [p for p in stage.parameters() if p.requires_grad]
    key = (
        tuple((tuple(p.shape), p.requires_grad) for p in stage.parameters()),
        (tuple(inputs.shape), inputs.requires_grad, len(stage.blocks), stage.embeds),
        (slots, micro_batches),
    )
    if key not in _costs:
        if not (trained or inputs.requires_grad):
            return counted_forward(stage, inputs)[1]
        received = inputs.detach().requires_grad_(inputs.requires_grad)
        cost = measure_step(stage, lambda: stage(received).sum(), slots)
        fixed = sum(p.nbytes for p in stage.parameters())
        fixed += sum(p.nbytes for p in trained) * (1 + slots)
        saved = cost.peak_bytes - fixed
        _costs[key] = StepCost(cost.flops, fixed + micro_batches * saved)
    return _costs[key]


@torch.no_grad()
def counted_forward(stage: Stage, inputs: Tensor) -> tuple[Tensor, StepCost]:
    """Run a forward pass; returns the outputs and what it took.

    Weights, inputs and outputs are what is in memory.
    """
    with FlopCounterMode(display=False) as counter:
        outputs = stage(inputs)
    weights = sum(p.nbytes for p in stage.parameters())
    return outputs, StepCost(counter.get_total_flops(), weights + inputs.nbytes + outputs.nbytes)


_costs: dict[object, StepCost] = {}
