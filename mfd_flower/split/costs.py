"""Computing cost and memory of stages and blocks, measured on a micro-batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mfd_flower.accounting.costs import StepCost, count_flops, measure_step
from mfd_flower.config import TrainConfig
from mfd_flower.models import TunedModel, input_spec
from mfd_flower.models.devices import device_of
from mfd_flower.models.optimizers import optimizer_of
from mfd_flower.models.prompts import as_prompted, entry_block
from mfd_flower.models.stages import Stage, split_model
from mfd_flower.scaling.quantise import weights_bytes

MEASURED_SAMPLES = 2
"""Where a micro-batch has no size of its own: costs are proportional to it."""


@dataclass(frozen=True)
class BlockCosts:
    """What a training step on a micro-batch takes in each block that runs, or in each stage."""

    flops: tuple[float, ...]
    memory_bytes: tuple[float, ...]
    cut_bytes: tuple[float, ...]
    """Over the cut behind each but the last, in one direction."""

    @classmethod
    def of(cls, model: TunedModel, config: TrainConfig, micro_batches: int, stages: int) -> Self:
        """Measure each block behind the frozen stage as one of its own, forward and backward.

        Memory is for as many micro-batches as can wait for their backward pass at the same time in
        a pipeline of so many stages.
        """
        model = as_prompted(model, "it is split").eval()
        spec, inputs = input_spec(model.backbone), model.frozen_stage()
        samples = -(-config.batch_size // micro_batches) or MEASURED_SAMPLES
        size = (samples, spec.channels, spec.size_px, spec.size_px)
        images = torch.zeros(size, device=device_of(model))
        tensor = model.frozen_outputs(inputs, images)
        costs, cut_bytes = [], []
        cuts = range(entry_block(inputs) + 1, len(model.backbone.blocks))
        for stage in split_model(model, cuts, inputs=inputs):
            costs.append(training_cost(stage, tensor, config, min(micro_batches, stages)))
            tensor = stage(tensor).detach().requires_grad_(True)
            cut_bytes.append(float(tensor.nbytes))
        flops, memory = (float(c.flops) for c in costs), (float(c.peak_bytes) for c in costs)
        return cls(tuple(flops), tuple(memory), tuple(cut_bytes[:-1]))

    def joined(self, cuts: Sequence[int]) -> BlockCosts:
        """Return the costs of the stages between `cuts` of these blocks."""
        stages = list(itertools.pairwise([0, *cuts, len(self.flops)]))
        return BlockCosts(
            tuple(sum(self.flops[start:end]) for start, end in stages),
            tuple(sum(self.memory_bytes[start:end]) for start, end in stages),
            tuple(self.cut_bytes[cut - 1] for cut in cuts),
        )


def training_cost(
    stage: Stage, inputs: Tensor, config: TrainConfig, micro_batches: int
) -> StepCost:
    """Count the forward and backward pass of a micro-batch through a stage.

    Memory is that of weights, gradients and optimiser state, and of what `micro_batches` forward
    passes save, which wait for their backward pass at the same time. `inputs` require a gradient if
    something in front of the stage trains.
    """
    slots = optimizer_of(config).slots(config)
    trained = [p for p in stage.parameters() if p.requires_grad]
    key = (*_shapes(stage, inputs), slots, micro_batches)
    if key not in _costs:
        if not (trained or inputs.requires_grad):
            return forward_cost(stage, inputs)
        received = inputs.detach().requires_grad_(inputs.requires_grad)
        stage.part.dropout_generator = None  # What a fit before left there has no copy.
        cost = measure_step(stage, received, lambda stage, inputs: stage(inputs).sum(), slots)
        fixed = weights_bytes(stage)
        fixed += sum(p.nbytes for p in trained) * (1 + slots)
        saved = cost.peak_bytes - fixed
        _costs[key] = StepCost(cost.flops, fixed + micro_batches * saved)
    return _costs[key]


def forward_cost(stage: Stage, inputs: Tensor) -> StepCost:
    """Count a forward pass without gradients: weights, inputs and outputs in memory."""
    key = (*_shapes(stage, inputs), "forward")
    if key not in _costs:
        held = [*stage.parameters(), inputs]

        def forward(stage: Stage, inputs: Tensor) -> None:
            held.append(stage(inputs))

        flops = count_flops(stage, inputs.detach(), forward)
        _costs[key] = StepCost(flops, sum(tensor.nbytes for tensor in held))
    return _costs[key]


def _shapes(stage: Stage, inputs: Tensor) -> tuple[object, ...]:
    return (
        tuple((tuple(p.shape), p.requires_grad) for p in stage.parameters()),
        (tuple(inputs.shape), inputs.requires_grad, stage.blocks.stop - stage.entry, stage.embeds),
    )


_costs: dict[object, StepCost] = {}
