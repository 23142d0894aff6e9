"""A step's cost is counted without computing it, and without touching other threads."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils.flop_counter import FlopCounterMode

from mfd_flower.accounting.costs import FlopCounter, measure_step
from mfd_flower.config import ModelConfig
from mfd_flower.models import PromptedViT, build_model


def computed(model: PromptedViT, stage: str, inputs: Tensor, labels: Tensor) -> tuple[int, int]:
    """Do a step; returns the FLOPs that torch sees and the bytes that the backward pass needs."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        F.cross_entropy(model.forward_from(stage, inputs), labels).backward()
    model.zero_grad()
    return counter.get_total_flops(), sum(v for k, v in saved.items() if k not in own)


@pytest.mark.parametrize("tune", ["head", "prompts", "lora", "full"])
def test_what_is_counted_is_what_a_step_takes(tune: str) -> None:
    model = build_model(ModelConfig(tune=tune, prompt_dropout=0.5), 10, 0).train()  # type: ignore[arg-type]
    stage = model.frozen_stage()
    inputs = model.frozen_outputs(stage, torch.randn(6, 1, 28, 28)).clone()
    labels = torch.arange(6)
    flops, saved_bytes = computed(model, stage, inputs, labels)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    held_bytes = sum(p.nbytes for p in model.parameters()) + trained
    # As a fit leaves it.
    model.dropout_generator = torch.Generator()
    found = measure_step(
        model,
        (inputs, labels),
        lambda model, batch: F.cross_entropy(model.forward_from(stage, batch[0]), batch[1]),
        0,
    )
    assert (found.flops, found.peak_bytes) == (flops, held_bytes + saved_bytes)
    assert all(p.grad is None for p in model.parameters())


def test_a_step_too_large_for_any_memory_is_counted() -> None:
    wide = nn.Linear(1 << 20, 1 << 20, bias=False, device="meta")
    found = measure_step(wide, torch.empty(4, 1 << 20), lambda m, x: m(x).sum(), 2)
    assert found.flops == 2 * 2 * 4 << 40
    assert found.peak_bytes > 4 * 4 << 40


def test_counting_leaves_other_threads_modules_alone() -> None:
    """Torch's own counter hooks every module of a process, whoever calls it."""
    seen = []
    with FlopCounter() as counter:
        seen.append(dict(module_hooks._global_forward_pre_hooks))
        other = threading.Thread(target=lambda: nn.Linear(3, 4)(torch.ones(2, 3)))
        other.start()
        other.join()
        nn.Linear(3, 4)(torch.ones(1, 3))
    assert seen == [{}]
    assert counter.get_total_flops() == 2 * 3 * 4
