"""CNNs, recurrent networks and any other of timm's do what a token transformer does on a node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.models import build_model, get_tunables, input_spec, load_backbone, set_tunables
from mfd_flower.models.backbones import FETCHED, fetched_file
from mfd_flower.models.build import check_model
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.plain import SMALL, PlainModel
from mfd_flower.models.residents import frozen_features, images_of
from mfd_flower.models.stages import split_model
from mfd_flower.runtime.runner import run_locally

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def run_of(strategy: str, rounds: int = 3, nodes: int = 4, **model: Any) -> RunConfig:
    return RunConfig.from_tables(
        {
            "data": {
                "name": "digits",
                "nodes": nodes,
                "train_samples": 200,
                "test_samples": 200,
                "validation": 0.0,
            },
            "model": {"backbone": "random", **model},
            "train": {"lr": 0.01, "local_epochs": 5, "batch_size": 16},
            "strategy": {"name": strategy, "rounds": rounds},
        }
    )


@pytest.mark.parametrize("arch", sorted(SMALL))
def test_a_small_network_is_drawn_from_the_seed_alone(arch: str) -> None:
    config = ModelConfig(backbone="random", arch=arch, tune="full")
    torch.manual_seed(1)
    one = get_tunables(build_model(config, 10, 3))
    load_backbone.__globals__["_load"].cache_clear()
    torch.manual_seed(2)
    same = get_tunables(build_model(config, 10, 3))
    other = get_tunables(build_model(config, 10, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    check_model(build_model(config, 10, 3), "full")


@pytest.mark.parametrize("arch", sorted(SMALL))
def test_the_size_of_images_is_a_setting(arch: str) -> None:
    config = ModelConfig(backbone="random", arch=arch, tune="head", img_size=16, in_chans=3)
    model = build_model(config, 5, 0)
    spec = input_spec(model.backbone)
    assert (spec.size_px, spec.channels) == (16, 3)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext"])
@pytest.mark.parametrize("tune", ["head", "full"])
def test_weights_from_a_file_are_timms(arch: str, tune: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(arch, num_classes=0, in_chans=3).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    file = f"file:{tmp_path}/w.safetensors"
    settings: dict[str, Any] = {"tune": tune, "img_size": 64}
    model = build_model(ModelConfig(backbone=file, arch=arch, **settings), 7, 0).eval()
    images = torch.randn(2, 3, 64, 64)
    features = F.layer_norm(theirs(images), (theirs.num_features,))
    torch.testing.assert_close(model(images), model.head(features))
    assert {n for n in get_tunables(model) if n.startswith("head.")} == {"head.weight", "head.bias"}
    assert (len(get_tunables(model)) > 2) is (tune == "full")


def test_batch_norms_keep_their_statistics() -> None:
    """They are no tunables: what one node's images made of them would stay there."""
    config = ModelConfig(backbone="random", arch="test_resnet", tune="full", img_size=64)
    model = build_model(config, 3, 0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert before
    model.train()(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("arch", sorted(SMALL))
def test_features_are_kept_and_are_those_of_a_whole_pass(arch: str) -> None:
    run = run_of("fedavg", arch=arch, tune="head")
    model = build_model(run.model, 10, run.seed).eval()
    assert model.frozen_stage() == "features"
    images = images_of(run, 0).inputs[:]
    logits = model.forward_from("features", frozen_features(run, images))
    torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "arch", "tune"),
    [
        ("fedavg", "small-cnn", "full"),
        ("mfd-walk", "small-gru", "full"),
        ("local-only", "small-cnn", "full"),
        ("gossip", "small-gru", "head"),
        ("ridge", "small-cnn", "head"),
        ("exact-walk", "small-gru", "head"),
    ],
)
def test_strategies_train_them(strategy: str, arch: str, tune: str) -> None:
    found = run_locally(run_of(strategy, arch=arch, tune=tune))
    first, last = found["points"][0], found["points"][-1]
    assert last["accuracy"] > first["accuracy"] + 0.1
    assert last["flops"] > 0
    assert last["bytes"]["payload"] > 0 or strategy == "local-only"


def test_a_model_file_brings_it_back(tmp_path: Path) -> None:
    config = ModelConfig(backbone="random", arch="small-cnn", tune="full")
    model = build_model(config, 4, 5)
    tensors = {n: t + 0.1 for n, t in get_tunables(model).items()}
    TrainedModel.of(tensors, config, tuple("abcd"), 5, {}).save(tmp_path / "m.safetensors")
    found = TrainedModel.load(tmp_path / "m.safetensors").assembled()
    set_tunables(model, tensors)
    assert isinstance(found, PlainModel)
    torch.testing.assert_close(found(IMAGES), model.eval()(IMAGES))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tune": "prompts"}, "model.tune = 'prompts': accepted for small-cnn: head, full"),
        ({"tune": "lora"}, "model.tune = 'lora': accepted for small-cnn: head, full"),
        ({"blocks": 2}, "model.blocks = 2: small-cnn has no row of blocks"),
        ({"levels": "1,2"}, "model.levels = '1,2': small-cnn has no row of blocks"),
        ({"pooling": "avg"}, "model.pooling = 'avg': small-cnn has no row of blocks"),
        ({"arch": "resnet18", "blocks": 2}, "model.blocks = 2: resnet18 has no row of blocks"),
        ({"arch": "resnet18", "tune": "lora"}, "is timm's ResNet: it has no row of blocks"),
        ({"img_size": 2}, "this backbone does not run so (Given input size"),
    ],
)
def test_what_it_cannot_be_is_said_in_one_line(settings: dict[str, Any], line: str) -> None:
    usual = {"backbone": "random", "arch": "small-cnn", "tune": "head"}
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        check_model(build_model(ModelConfig(**{**usual, **settings}), 10, 0), "head")
    assert "\n" not in str(caught.value)


def test_it_has_no_stages() -> None:
    model = build_model(ModelConfig(backbone="random", arch="small-cnn", tune="full"), 10, 0)
    with pytest.raises(ConfigError, match="accepted where it is split: token transformers"):
        split_model(model, [1])
    options = {"clusters": 1, "cluster_size": 2}
    run = RunConfig.from_tables(
        {
            "model": {"backbone": "random", "arch": "small-cnn", "tune": "full"},
            "strategy": {"name": "hfsl", "options": json.dumps(options)},
        }
    )
    with pytest.raises(ConfigError, match="accepted where it is split: token transformers"):
        run_locally(run)


def test_lite0_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="is timm's EfficientNet"):
        load_backbone(ModelConfig(backbone="lite0"))
    config = ModelConfig(backbone="lite0", tune="head", img_size=64)
    with pytest.raises(ConfigError, match="say `make lite0` once"):
        load_backbone(config)
    theirs = timm.create_model(FETCHED["lite0"][0], num_classes=0).eval()
    fetched_file("lite0").parent.mkdir()
    save_file(theirs.state_dict(), fetched_file("lite0"))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(load_backbone(config)(images), theirs(images))
