"""Heads on several blocks: what they get is what the blocks make, wherever one begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.models import build_model
from mfd_flower.models.build import check_model
from mfd_flower.models.export import export
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.stages import split_model
from mfd_flower.models.tunables import get_tunables
from mfd_flower.strategy import build_strategy

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def model_of(levels: str = "2,4", **settings: Any) -> PromptedViT:
    return build_model(ModelConfig(levels=levels, **settings), 10, 0).eval()


def by_hand(model: PromptedViT, levels: list[int]) -> torch.Tensor:
    """The tokens behind each block, prompts cut out, by the backbone's own blocks."""
    tokens, found = model.embed(IMAGES), []
    for index, block in enumerate(model.backbone.blocks):
        if index < len(model.prompts) and model.prompts[index] is not None:
            skip = 1 + (model.num_prompts if index > model.prompt_from else 0)
            prompts = model.prompts[index].expand(3, -1, -1)
            tokens = torch.cat([tokens[:, :1], prompts, tokens[:, skip:]], 1)
        tokens = block(tokens)
        if index + 1 in levels:
            patches = tokens[:, -model.grid[0] * model.grid[1] :]
            parts = (tokens[:, 0], patches.mean(1))
            found.extend(F.layer_norm(part, (96,)) for part in parts)
    return torch.cat(found, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"tune": "head"},
        {"tune": "prompts", "prompts": 3},
        {"tune": "prompts", "prompts": 3, "prompt_from": 1},
        {"tune": "prompts", "prompts": 3, "prompt_from": 3},
        {"tune": "prompts", "prompts": 3, "prompt_from": 2},
        {"tune": "prompts", "prompts": 3, "deep": False},
    ],
)
@torch.no_grad()
def test_the_head_gets_class_token_and_mean_of_the_patches(settings: dict[str, Any]) -> None:
    model = model_of("2,4", **settings)
    assert model.head.in_features == 4 * 96
    wanted = by_hand(model, [2, 4])
    assert 0.9 < float(wanted.square().mean()) < 1.1
    torch.testing.assert_close(model.features_from("images", IMAGES), wanted)
    stage = model.frozen_stage()
    inputs = model.frozen_outputs(stage, IMAGES)
    torch.testing.assert_close(model.features_from(stage, inputs), wanted)
    torch.testing.assert_close(model.forward_from(stage, inputs), model.head(wanted))


def test_what_is_kept_lies_in_front_of_the_first_level() -> None:
    stages = {
        ("2,4", 0): "tokens",
        ("2,4", 1): "block-1",
        ("2,4", 3): "block-2",
        ("4", 3): "block-3",
    }
    for (levels, first), stage in stages.items():
        assert model_of(levels, tune="prompts", prompt_from=first).frozen_stage() == stage
    assert model_of("2,4", tune="head").frozen_stage() == "features"
    assert model_of("2,4", tune="full").frozen_stage() == "images"


@pytest.mark.parametrize("levels", ["0", "4,2", "2,2", "7", "2;4", "a", "2,,4", "-1", "1e1"])
def test_levels_that_are_none_are_named(levels: str) -> None:
    with pytest.raises(ConfigError, match=f"levels = '{levels}': rising numbers from 1 to 6, "):
        model_of(levels)


def test_prompts_behind_the_last_level_are_of_no_use() -> None:
    model = model_of("2", tune="prompts")
    with pytest.raises(ConfigError, match=r"makes no use of prompts\.2"):
        check_model(model, "prompts")


def test_a_model_of_levels_comes_back_from_its_file(tmp_path: Any) -> None:
    model, config = model_of("1,3", tune="head"), ModelConfig(levels="1,3", tune="head")
    names = tuple(map(str, range(10)))
    TrainedModel.of(get_tunables(model), config, names, 0, {}).save(tmp_path / "m.safetensors")
    back = TrainedModel.load(tmp_path / "m.safetensors").assembled()
    torch.testing.assert_close(back(IMAGES), model(IMAGES))
    with pytest.raises(ConfigError, match=r"model.levels = '1,3': timm has no head on several"):
        export(tmp_path / "m.safetensors", tmp_path / "out")


def test_a_model_of_levels_is_not_split(make_run: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"model.levels = \[2, 4\]: accepted where it is split"):
        split_model(model_of(tune="prompts"), [2])
    with pytest.raises(ConfigError, match=r"model.levels = '2,4': accepted by hfsl: none"):
        build_strategy(make_run("hfsl", model={"levels": "2,4"}))
