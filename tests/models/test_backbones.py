"""Backbones load from a file or by name, and what is broken is named."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig, ModelConfig, TrainConfig
from mfd_flower.data import load_federation
from mfd_flower.models import (
    backbone_digest,
    build_model,
    evaluate,
    fit,
    input_spec,
    load_backbone,
)
from mfd_flower.models.backbones import FM_TINY_FILE, new_fm_tiny

ROOT = Path(__file__).parents[2]


def test_fm_tiny_is_loaded_once_and_frozen() -> None:
    backbone = load_backbone(ModelConfig())
    assert backbone is load_backbone(ModelConfig(tune="lora"), seed=3)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.training
    assert (ROOT / FM_TINY_FILE).stat().st_size <= 3e6


def test_a_digest_is_of_the_weights_and_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = new_fm_tiny()
    same, other = copy.deepcopy(backbone), copy.deepcopy(backbone)
    with torch.no_grad():
        other.blocks[5].attn.qkv.bias[7] += 2**-20
    digest = backbone_digest(backbone)
    assert backbone_digest(same) == digest != backbone_digest(other)
    monkeypatch.setattr("mfd_flower.models.backbones.version_digest", None)
    assert backbone_digest(backbone) == digest


def test_any_timm_vision_transformer_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    config = ModelConfig(backbone=f"file:{tmp_path}/w.safetensors", arch="test_vit")
    loaded = build_model(config, 4, 0)
    spec = input_spec(loaded.backbone)
    assert (spec.size_px, spec.channels) == (160, 3)
    images = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(
        loaded.backbone.forward_features(images), model.eval().forward_features(images)
    )


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    config = ModelConfig(backbone=f"file:{path}")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        load_backbone(config)
    path.write_bytes(b"\x10\0\0\0\0\0\0\0garbage")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        load_backbone(config)
    weights = new_fm_tiny().state_dict()
    save_file({**weights, "pos_embed": torch.zeros(1, 5, 96)}, path)
    with pytest.raises(ConfigError, match=r"needs pos_embed of shape \(1, 17, 96\)"):
        load_backbone(config)
    weights.pop("norm.weight")
    save_file(weights, path)
    with pytest.raises(ConfigError, match=r"needs norm\.weight .* has None"):
        load_backbone(config)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"backbone": "resnet"}, "accepted: fm-tiny, random, file:"),
        ({"backbone": "hub:no_such_model"}, "no timm model of this name"),
        ({"backbone": "random", "arch": "resnet18"}, "not a timm VisionTransformer"),
        ({"backbone": "random", "arch": "nothing"}, "timm.list_models"),
    ],
)
def test_unknown_backbones_are_refused(settings: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_backbone(ModelConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("backbone", "low", "high"), [("fm-tiny", 0.9, 1.0), ("random", 0.0, 0.5)])
def test_pretraining_is_what_makes_prompts_work(backbone: str, low: float, high: float) -> None:
    """GaisNet Fig. 6: prompts and head on a pre-trained and on a random frozen backbone."""
    federation = load_federation(DataConfig(nodes=1, train_samples=500), 0)
    model = build_model(ModelConfig(backbone=backbone), 10, 0)
    spec = input_spec(model.backbone)
    train = federation.samples(federation.shares[0], spec)
    settings = TrainConfig(lr=0.01, lr_schedule="cosine", batch_size=32, local_epochs=3)
    fit(model, train, settings, seed=0)
    accuracy = evaluate(model, federation.samples(federation.test, spec)).accuracy
    assert low <= accuracy < high
