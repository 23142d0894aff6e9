"""Cost of a training step or a forward pass, counted on tensors that have no values.

FLOPs are what `torch.utils.flop_counter` sees in one forward and backward pass, so weights that are
frozen cost no weight gradient. Memory counts the parameters, the gradients and optimiser state of
what trains, and the tensors that autograd saves for the backward pass (each storage once). Nothing
is computed: torch follows shapes alone, as on a CPU in fp32, so that a cost belongs to the step and
not to the machine that does it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

_one_at_a_time = threading.Lock()
"""Torch's record of what an operation does to shapes is shared by all threads."""


class FlopCounter(FlopCounterMode):
    """Count the operations of a block in this thread; `get_total_flops` returns them.

    Torch's own counter tells modules apart by hooks on every module of the process, which
    come and go while other threads call theirs.
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _NoModules()


class _NoModules(nullcontext[None]):
    parents = ("Global",)


@dataclass(frozen=True)
class StepCost:
    """Cost of one training step on one batch."""

    flops: int
    peak_bytes: int


def measure_step(
    model: nn.Module, parts: Any, loss: Callable[[Any, Any], Tensor], optimizer_slots: int
) -> StepCost:
    """Count what one forward and backward pass of a scalar loss takes.

    `loss` gets copies of the `model` and of `parts`, whatever else with tensors it needs; they have
    the shapes alone. `optimizer_slots` are the tensors that the optimiser keeps for each trained
    parameter (AdamW 2, SGD 0 or 1).
    """
    with _without_values(model, parts) as (model, parts):
        saved: dict[int, int] = {}
        own = {_storage(p) for p in model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in own:
                saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        counter = FlopCounter()
        with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss(model, parts).backward()
        copies = (2 + optimizer_slots if p.requires_grad else 1 for p in model.parameters())
        held = sum(count * p.nbytes for count, p in zip(copies, model.parameters(), strict=True))
        held += sum(buffer.nbytes for buffer in model.buffers())
    return StepCost(counter.get_total_flops(), held + sum(saved.values()))


@torch.no_grad()
def count_flops(model: nn.Module, parts: Any, forward: Callable[[Any, Any], object]) -> int:
    """Return the floating point operations of a pass without gradients, as `measure_step` does."""
    with _without_values(model, parts) as (model, parts), FlopCounter() as counter:
        forward(model, parts)
    return int(counter.get_total_flops())


@contextmanager
def _without_values(model: nn.Module, parts: Any) -> Iterator[tuple[Any, Any]]:
    """Yield copies that have shapes alone, in a block in which nothing is computed."""
    with _one_at_a_time, FakeTensorMode(), _WithoutValues():
        # A parameter copies itself in a way of its own.
        known: dict[int, Any] = {
            id(p): nn.Parameter(_shape_of(p), p.requires_grad) for p in model.parameters()
        }
        # And a generator cannot be copied here, where nothing is drawn from it either.
        held_by = (value for module in model.modules() for value in vars(module).values())
        known |= {id(value): None for value in held_by if isinstance(value, torch.Generator)}
        yield copy.deepcopy((model, parts), known)


class _WithoutValues(TorchFunctionMode):
    """Let deep copies have tensors of the same shapes without values, on the CPU."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is not Tensor.__deepcopy__:
            return function(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = _shape_of(tensor).requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)


def _storage(tensor: Tensor) -> int:
    # A tensor without values has no address of its data.
    return tensor.untyped_storage()._cdata
