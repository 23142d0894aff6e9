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


def measure_step(
    model: nn.Module, loss: Callable[[], Tensor], optimizer_slots: int = 0
) -> StepCost:
    """Run one forward and backward pass and count what it takes.

    Parameters
    ----------
    model : nn.Module
        Its gradients are dropped afterwards; its weights are untouched.
    loss : callable
        Runs the forward pass and returns the scalar loss.
    optimizer_slots : int
        Tensors that the optimiser keeps for each trained parameter (AdamW 2, SGD 0 or 1).
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
    weights = sum(p.nbytes for p in parameters)
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    peak = weights + trained * (1 + optimizer_slots) + sum(saved.values())
    return StepCost(counter.get_total_flops(), peak)
