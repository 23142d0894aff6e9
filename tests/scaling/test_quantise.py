"""Integers stand for nearly the same weights, in a quarter of the memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.models import build_model, load_backbone
from mfd_flower.runtime.runner import run_locally
from mfd_flower.scaling import Cut, cut, size_of
from mfd_flower.scaling.quantise import Int8Linear, quantised, weights_bytes


@given(st.integers(1, 20), st.integers(1, 20), st.floats(1e-6, 1e6), st.booleans())
def test_no_weight_is_off_by_more_than_half_a_step(
    out: int, inner: int, size: float, bias: bool
) -> None:
    layer = nn.Linear(inner, out, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(size)
    found = Int8Linear(layer)
    step = layer.weight.abs().amax(1, keepdim=True) / 127
    assert ((found.weight - layer.weight).abs() <= 0.5001 * step).all()
    shown = torch.randn(3, inner)
    torch.testing.assert_close(found(shown), nn.functional.linear(shown, found.weight, layer.bias))


def test_gradients_are_those_of_the_weights_that_it_stands_for() -> None:
    layer = Int8Linear(nn.Linear(6, 4))
    one, other = (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    layer(one.requires_grad_()).square().sum().backward()
    nn.functional.linear(other.requires_grad_(), layer.weight, layer.bias).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(one)
    assert found.dtype == torch.bfloat16
    found.sum().backward()


def test_rows_of_nothing_stay_nothing() -> None:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(Int8Linear(layer).weight, torch.zeros(2, 4))


def test_a_backbone_takes_a_third_of_the_memory_and_sees_nearly_the_same() -> None:
    whole, small = (load_backbone(ModelConfig(weights=w)) for w in ("fp32", "int8"))
    # Embeddings, norms and scales stay what they were.
    assert weights_bytes(small) < 0.3 * weights_bytes(whole)
    shown = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = whole(shown), small(shown)
    assert (one - other).norm() < 0.05 * one.norm()
    assert {id(p) for p in small.parameters()} < {id(p) for p in whole.parameters()}


def test_prompts_learn_through_it() -> None:
    model = build_model(ModelConfig(weights="int8"), 10, 0)
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    data = {"name": "digits", "nodes": 2, "train_samples": 80, "test_samples": 60}
    tables = {"data": data, "strategy": {"name": "fedavg", "rounds": 2}}
    points = run_locally(RunConfig.from_tables({**tables, "model": {"weights": "int8"}}))["points"]
    usual = run_locally(RunConfig.from_tables(tables))["points"]
    assert points[-1]["accuracy"] > points[0]["accuracy"] + 0.1
    assert points[-1]["peak_node_bytes"] < usual[-1]["peak_node_bytes"]


def test_it_can_be_cut_first() -> None:
    config = ModelConfig(weights="int8", num_heads=2, mlp_ratio=2.0)
    found = load_backbone(config)
    assert size_of(found).num_heads == 2
    whole = load_backbone(ModelConfig())
    part = quantised(cut(whole, Cut.of(whole, num_heads=2, mlp_dim=192)))
    shown = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(found(shown), part(shown))


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_what_trains_the_weights_is_refused(tune: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape("model.weights = 'int8': accepted with tune")):
        build_model(ModelConfig(weights="int8", tune=tune), 10, 0)
