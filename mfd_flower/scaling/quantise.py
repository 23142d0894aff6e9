"""Frozen weights in a quarter of the memory: int8 with a scale for each row.

The largest absolute value of a row of a linear layer becomes 127 (symmetric, per channel, round to
nearest: Jacob et al. 2018, arXiv 1712.05877, section 3, without its activations, which stay as they
are). A layer multiplies by what the integers stand for, made whenever it is used, so that gradients
flow through it to prompts.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 127
ModelT = TypeVar("ModelT", bound=nn.Module)


class _Through(torch.autograd.Function):
    """A linear map whose backward pass makes the weight again, instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(rows, scale)
        ctx.kind = inputs.dtype
        return F.linear(inputs, rows.to(scale.dtype) * scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, scale = ctx.saved_tensors
        weight = (rows.to(scale.dtype) * scale).to(gradients[0].dtype)
        return (gradients[0] @ weight).to(ctx.kind), None, None


class Int8Linear(nn.Linear):
    """A linear layer whose frozen weight is kept as integers."""

    rows: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        self.register_buffer("rows", (weight / scale * LARGEST).round().to(torch.int8))
        self.register_buffer("scale", scale / LARGEST)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the integers stand for, ``(out, in)``."""
        return self.rows.to(self.scale.dtype) * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        found = cast(Tensor, _Through.apply(inputs, self.rows, self.scale))
        return found if self.bias is None else found + self.bias.to(found.dtype)


def quantised(model: ModelT) -> ModelT:
    """Return a copy of a frozen model whose linear layers are `Int8Linear`."""
    # What stays as it is stays the same tensor.
    made = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    for name, module in list(made.named_modules()):
        if type(module) is nn.Linear:
            place, _, leaf = name.rpartition(".")
            setattr(made.get_submodule(place), leaf, Int8Linear(module))
    return made


def weights_bytes(model: nn.Module) -> int:
    """Return what a model's parameters and buffers take."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
