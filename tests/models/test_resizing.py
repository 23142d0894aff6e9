"""Models of other sizes on one backbone: what travels goes there and comes back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.models import build_model, get_tunables, load_backbone, set_tunables
from mfd_flower.models.export import export
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.resizing import Resizing
from mfd_flower.runtime.runner import run_locally
from mfd_flower.scaling import size_of

IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LARGER: list[dict[str, Any]] = [
    {"embed_dim": 128},
    {"embed_dim": 192, "depth": 8},
    {"depth": 7},
    {"mlp_ratio": 6.0},
]
SMALLER: list[dict[str, Any]] = [{"depth": 4}, {"num_heads": 2, "mlp_ratio": 2.0}]


def shaken(config: ModelConfig) -> dict[str, torch.Tensor]:
    model = build_model(config, 5, 0)
    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in get_tunables(model).items()
    }


def logits(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    model = build_model(config, 5, 0).eval()
    set_tunables(model, tensors)
    with torch.no_grad():
        return model(IMAGES)


def way(travels: ModelConfig, own: ModelConfig) -> Resizing:
    return Resizing.of(travels, own, get_tunables(build_model(own, 5, 0)), 0)


@pytest.mark.parametrize("tune", ["prompts", "lora", "head", "full"])
@pytest.mark.parametrize("sizes", LARGER)
def test_a_larger_node_has_the_same_function(tune: Any, sizes: dict[str, Any]) -> None:
    travels = ModelConfig(tune=tune)
    own, tensors = replace(travels, **sizes), shaken(travels)
    there = way(travels, own).there(tensors)
    torch.testing.assert_close(logits(own, there), logits(travels, tensors), atol=2e-5, rtol=1e-4)
    back = way(travels, own).back(there, tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(back[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tune", ["prompts", "lora", "head", "full"])
@pytest.mark.parametrize("sizes", SMALLER)
def test_a_smaller_node_changes_its_part_alone(tune: Any, sizes: dict[str, Any]) -> None:
    travels = ModelConfig(tune=tune)
    own, tensors = replace(travels, **sizes), shaken(travels)
    there = way(travels, own).there(tensors)
    assert logits(own, there).shape == (4, 5)
    back = way(travels, own).back(there, tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    moved = way(travels, own).back({n: t + 1 for n, t in there.items()}, tensors)
    changed = sum(int((moved[n] != tensors[n]).sum()) for n in tensors)
    assert changed == sum(tensor.numel() for tensor in there.values())


def test_a_node_may_have_more_prompts() -> None:
    travels, own = ModelConfig(prompts=3), ModelConfig(prompts=5, embed_dim=128)
    tensors = shaken(travels)
    there = way(travels, own).there(tensors)
    assert there["prompts.0"].shape == (5, 128)
    back = way(travels, own).back(there, tensors)
    torch.testing.assert_close(back["prompts.0"], tensors["prompts.0"])


def test_what_is_cut_follows_from_the_frozen_weights_alone() -> None:
    """Else a node whose tunables have moved would cut another part out of the same packet."""
    travels = ModelConfig(tune="full")
    own = replace(travels, num_heads=1, mlp_ratio=1.0)
    before = way(travels, own).change
    model = build_model(travels, 5, 0)
    set_tunables(model, {n: torch.randn_like(t) for n, t in get_tunables(model).items()})
    assert way(travels, own).change == before


@pytest.mark.parametrize("sizes", [*LARGER, *SMALLER])
def test_a_sized_backbone_is_loaded_once_and_frozen(sizes: dict[str, Any]) -> None:
    config = ModelConfig(**sizes)
    backbone = load_backbone(config)
    assert backbone is load_backbone(replace(config, tune="head"))
    assert not any(p.requires_grad for p in backbone.parameters())
    found = size_of(backbone)
    for name, value in sizes.items():
        if name != "mlp_ratio":
            assert getattr(found, name) == value
    assert found != size_of(load_backbone(ModelConfig()))


def test_a_file_of_a_grown_model_brings_its_epsilon_back(tmp_path: Path) -> None:
    """On images of next to no contrast a forgotten one shows."""
    config = ModelConfig(embed_dim=128)
    tensors = shaken(config)
    TrainedModel.of(tensors, config, tuple("abcde"), 0, {}).save(tmp_path / "m.safetensors")
    trained = TrainedModel.load(tmp_path / "m.safetensors")
    flat = IMAGES * 1e-6
    model = build_model(config, 5, 0).eval()
    set_tunables(model, tensors)
    with torch.no_grad():
        torch.testing.assert_close(trained.assembled()(flat), model(flat))
    with pytest.raises(ConfigError, match=r"model\.embed_dim = 128: timm has no model of a size"):
        export(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_at_another_size() -> None:
    tables = {
        "data": {"name": "digits", "nodes": 2, "train_samples": 80, "test_samples": 50},
        "model": {"depth": 3, "num_heads": 2},
        "strategy": {"name": "fedavg", "rounds": 2},
    }
    found = run_locally(RunConfig.from_tables(tables))
    whole = run_locally(RunConfig.from_tables({**tables, "model": {}}))
    assert found["points"][-1]["flops"] < 0.6 * whole["points"][-1]["flops"]
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"embed_dim": 64},
            "model = {'embed_dim': 64}: embed_dim = 64: must be at least 96, what it is now",
        ),
        ({"embed_dim": 128, "depth": 2}, ": depth = 2: must be at least 6, what it is now"),
        ({"embed_dim": 100, "num_heads": 3}, ": num_heads = 3: must divide embed_dim = 100"),
        ({"num_heads": 2, "depth": 9}, ": num_heads = 2: must be at least 3"),
        (
            {"backbone": "random", "arch": "eva02_tiny_patch14_224", "depth": 2},
            "model is Eva: accepted: timm's VisionTransformer",
        ),
        ({"backbone": "random", "arch": "small-cnn", "tune": "head", "depth": 2}, "small-cnn has"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        load_backbone(ModelConfig(**settings))
    assert "\n" not in str(caught.value)


def test_other_models_have_no_way_there() -> None:
    travels = ModelConfig()
    for settings in ({"backbone": "random"}, {"tune": "head"}, {"deep": False}):
        (name,) = settings
        with pytest.raises(ConfigError, match=f"profiles.model.{name} = .*as the model that"):
            way(travels, ModelConfig(**settings))
