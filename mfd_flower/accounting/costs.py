"""Computing cost and memory of one training step, measured and not estimated.

FLOPs are what `torch.utils.flop_counter` sees in one forward and backward pass, so weights that are
frozen cost no weight gradient. Memory counts the parameters, the gradients and optimiser state of
what trains, and the tensors that autograd saves for the backward pass (each storage once).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class StepCost:
    """Cost of one training step on one batch."""

    flops: int
    peak_bytes: int


def measure_step(model: nn.Module, loss: Callable[[], Tensor], optimizer_slots: int) -> StepCost:
    """Run one forward and backward pass of a scalar loss and count what it takes.

    The model's gradients are dropped afterwards; its weights are untouched. `optimizer_slots` are
    the tensors that the optimiser keeps for each trained parameter (AdamW 2, SGD 0 or 1).
    """
    parameters = list(model.parameters())
    own = {p.untyped_storage().data_ptr() for p in parameters}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss().backward()
    model.zero_grad(set_to_none=True)
    copies = (2 + optimizer_slots if p.requires_grad else 1 for p in parameters)
    held = sum(count * p.nbytes for count, p in zip(copies, parameters, strict=True))
    return StepCost(counter.get_total_flops(), held + sum(saved.values()))
