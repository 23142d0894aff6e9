"""Backbones load from a file or by name, and what is broken is named."""

from __future__ import annotations

import copy
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mfd_flower.checks import ConfigError, build
from mfd_flower.config import DataConfig, ModelConfig, TrainConfig
from mfd_flower.data import load_federation
from mfd_flower.data.samples import prepared
from mfd_flower.models import (
    backbone_digest,
    build_model,
    evaluate,
    fit,
    input_spec,
    load_backbone,
)
from mfd_flower.models.arch import new_fm_tiny
from mfd_flower.models.backbones import FETCHED, FM_TINY_FILE, fetched_file
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.trunk import checked_trunk

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
    save_file({**weights, "norm.bias": torch.zeros(95)}, path)
    with pytest.raises(ConfigError, match=r"needs norm\.bias of shape \(96,\)"):
        load_backbone(config)
    save_file({**weights, "pos_embed": torch.zeros(1, 6, 96)}, path)  # Five patches are no square.
    with pytest.raises(ConfigError, match=r"needs pos_embed of shape \(1, 17, 96\)"):
        load_backbone(config)
    save_file({**weights, "norm.bias": torch.full((96,), torch.nan)}, path)
    with pytest.raises(ConfigError, match=r"norm\.bias has values that are not finite"):
        load_backbone(config)
    weights.pop("norm.weight")
    save_file(weights, path)
    with pytest.raises(ConfigError, match=r"needs norm\.weight .* has None"):
        load_backbone(config)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"backbone": "resnet"}, "accepted: fm-tiny, vit-small, lite0, random, file:"),
        ({"backbone": "hub:no_such_model"}, "no timm model of this name"),
        ({"backbone": "hub:fm-tiny"}, "no timm model of this name"),
        ({"backbone": "random", "arch": "nothing"}, "timm.list_models"),
        ({"backbone": "random", "arch": "resnet18"}, "is timm's ResNet: it has no row of blocks"),
        # Before anything is read or downloaded.
        (
            {"backbone": "hub:swin_tiny_patch4_window7_224"},
            "is timm's SwinTransformer: it has no row",
        ),
        (
            {"backbone": "file:gone", "arch": "cait_xxs24_224"},
            "is timm's Cait: its class token meets",
        ),
        (
            {"backbone": "hub:vit_tiny_patch16_224.nonsense"},
            "timm does not make it (Invalid pretrained tag (nonsense)",
        ),
        (
            {"backbone": "random", "arch": "vitamin_small_224", "img_size": 50},
            "model.img_size = 50: accepted: multiples of the patch, 16 px",
        ),
        (
            {"backbone": "file:gone", "arch": "vit_tiny_r_s16_p8_224", "img_size": 80},
            "model.img_size = 80: accepted: multiples of the patch, 32 px",
        ),
        ({"img_size": 30}, "model.img_size = 30: accepted: multiples of the patch, 7 px"),
        ({"in_chans": 3}, "takes images of 3 channels, the weights are of 1; only weights of 3"),
        ({"blocks": 7}, "model.blocks = 7: accepted: at most 6"),
        ({"pooling": "map"}, "model.pooling = 'map': of timm: Cannot currently add attention"),
        (
            {"backbone": "random", "arch": "vit_dwee_patch16_reg1_gap_256", "pooling": "token"},
            "Token pooling needs the class token",
        ),
        (
            {"backbone": "random", "arch": "deit_tiny_distilled_patch16_224", "pooling": "avg"},
            "The distilled head reads",
        ),
    ],
)
def test_what_is_no_backbone_is_refused_in_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        load_backbone(ModelConfig(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "most"), [("img_size", 4096), ("in_chans", 64), ("prompts", 4096), ("lora_rank", 1024)]
)
def test_sizes_that_no_memory_holds_are_no_settings(name: str, most: int) -> None:
    assert build(ModelConfig, {name: most})
    for value in (most + 1, 2**62):
        with pytest.raises(ConfigError, match=f"{name} = {value}: must be .*at most {most}"):
            build(ModelConfig, {name: value})


def test_what_timm_fails_on_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def fails(name: str, **keywords: Any) -> torch.nn.Module:
        if "img_size" in keywords:
            raise AssertionError
        return create(name, **keywords)

    monkeypatch.setattr("timm.create_model", fails)
    with pytest.raises(ConfigError, match=r"timm does not make it \(AssertionError\)"):
        load_backbone(ModelConfig("random", "test_vit", img_size=64))


def test_a_pipe_is_no_file_of_weights(tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"not a safetensors file \(no regular file\)"):
        load_backbone(ModelConfig(backbone=f"file:{tmp_path}/pipe"))
    with pytest.raises(ConfigError, match=r"not a safetensors file \(no regular file\)"):
        TrainedModel.load(tmp_path / "pipe")


def test_vit_small_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="say `make vit-small` once"):
        load_backbone(ModelConfig(backbone="vit-small", img_size=56))
    torch.manual_seed(0)
    model = timm.create_model(FETCHED["vit-small"][0], num_classes=0)
    fetched_file("vit-small").parent.mkdir()
    save_file(model.state_dict(), fetched_file("vit-small"))
    loaded = load_backbone(ModelConfig(backbone="vit-small", blocks=2))
    assert (input_spec(loaded).size_px, len(loaded.blocks)) == (112, 2)
    model.set_input_size(112)
    assert torch.equal(loaded.pos_embed, model.pos_embed)


GREY = torch.randn(3, 1, 42, 42, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["fm-tiny", "file:"])
def test_positions_are_resampled_as_timm_resamples_them(backbone: str, tmp_path: Path) -> None:
    resized = copy.deepcopy(load_backbone(ModelConfig()))
    save_file(resized.state_dict(), tmp_path / "w.safetensors")
    name = f"file:{tmp_path}/w.safetensors" if backbone == "file:" else backbone
    found = load_backbone(ModelConfig(backbone=name, img_size=42))
    resized.set_input_size(42)
    assert input_spec(found).size_px == 42
    torch.testing.assert_close(found.forward_features(GREY), resized.forward_features(GREY))


def test_one_channel_is_seen_as_the_same_in_three(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = timm.create_model("test_vit", num_classes=0, img_size=48).eval()
    file = tmp_path / "w.safetensors"
    save_file(colour.state_dict(), file)
    config = ModelConfig(backbone=f"file:{file}", arch="test_vit", img_size=48, in_chans=1)
    grey = load_backbone(config)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 1), np.uint8)
    one, three = (
        prepared(pixels, np.zeros(2, np.int64), input_spec(model)).inputs[:]
        for model in (grey, colour)
    )
    assert (one.shape[1], three.shape[1]) == (1, 3)
    expected = colour.forward_features(three)
    torch.testing.assert_close(grey.forward_features(one), expected)
    # Not where channels are normalised apart: the weights are summed as timm sums them.
    colour.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    apart = prepared(pixels, np.zeros(2, np.int64), input_spec(colour)).inputs[:]
    averaged = replace(input_spec(grey), mean=(0.449,), std=(0.226,))
    seen = grey.forward_features(prepared(pixels, np.zeros(2, np.int64), averaged).inputs[:])
    difference = (seen - colour.forward_features(apart)).norm() / seen.norm()
    assert 1e-4 < difference < 0.2


@pytest.mark.parametrize(
    ("channels", "mean"),
    [(1, (0.5,)), (3, (0.2, 0.4, 0.9)), (5, (0.2, 0.4, 0.9, 0.2, 0.4))],
)
def test_normalisation_follows_the_channels(channels: int, mean: tuple[float, ...]) -> None:
    backbone = VisionTransformer(
        img_size=16, in_chans=channels, embed_dim=24, depth=1, num_heads=2, num_classes=0
    )
    backbone.pretrained_cfg = {"mean": (0.2, 0.4, 0.9), "std": (1.0, 1.0, 1.0)}
    spec = input_spec(backbone)
    assert spec.mean == pytest.approx(mean)
    assert (spec.channels, spec.std) == (channels, (1.0,) * channels)


@pytest.mark.parametrize("arch", ["fm-tiny", "small-cnn", "test_vit"])
@pytest.mark.parametrize(("how", "mean", "std"), [("unit", 0.0, 1.0), ("imagenet", 0.449, 0.226)])
def test_pixels_may_be_normalised_otherwise(arch: str, how: Any, mean: float, std: float) -> None:
    config = ModelConfig(backbone="random", arch=arch, in_chans=1, normalise=how, tune="full")
    spec = input_spec(load_backbone(config))
    assert spec.mean == pytest.approx((mean,))
    assert spec.std == pytest.approx((std,))
    usual = input_spec(load_backbone(replace(config, normalise="")))
    assert usual.mean == usual.std == (0.5,)


def test_the_first_blocks_are_those_of_the_whole() -> None:
    whole, first = load_backbone(ModelConfig()), load_backbone(ModelConfig(blocks=4))
    images = GREY[..., :28, :28]
    (expected,) = whole.forward_intermediates(
        images, [3], output_fmt="NLC", return_prefix_tokens=True, norm=True, intermediates_only=True
    )
    torch.testing.assert_close(first.forward_features(images)[:, 1:], expected[0])
    assert len(whole.blocks) == 6


def test_pooling_is_of_the_same_normed_tokens() -> None:
    own, pooled = (build_model(ModelConfig(pooling=p), 4, 0).backbone for p in ("", "avg"))
    images = GREY[..., :28, :28]
    tokens = own.forward_features(images)
    torch.testing.assert_close(pooled.forward_features(images), tokens)
    head = pooled.forward_head(tokens, pre_logits=True)
    torch.testing.assert_close(head, tokens[:, 1:].mean(1))
    torch.testing.assert_close(own.forward_head(tokens, pre_logits=True), tokens[:, 0])


def test_an_architecture_with_a_forward_pass_of_its_own_is_refused() -> None:
    class Odd(VisionTransformer):
        def forward_features(self, *args: Any, **keywords: Any) -> torch.Tensor:
            return 2 * super().forward_features(*args, **keywords)

    with pytest.raises(ConfigError, match=r"model\.arch = 'odd': is timm's Odd: it has no row"):
        checked_trunk(Odd(img_size=16, embed_dim=24, depth=1, num_heads=2), "model.arch", "odd")


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
