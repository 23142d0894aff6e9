"""Architectures of timm do with our tunables what timm does with them, and are listed so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.models_table import (
    ARCHITECTURES,
    PROMPTS,
    TOLERANCE,
    difference,
    row,
    shake,
    timm_logits,
)
from mfd_flower.models import PromptedViT, get_tunables, set_tunables
from mfd_flower.models.tested import HEADINGS, markdown, tested
from tests.models.test_prompts import eva, vit

TESTED = tested()["rows"]
ROOT = Path(__file__).parents[2]


def worked(cell: dict[str, Any]) -> dict[str, bool | str]:
    """Return of a cell what does not depend on the machine."""
    return {n: v if isinstance(v, str) else v < TOLERANCE for n, v in cell.items()}


@pytest.mark.parametrize(
    "arch",
    [
        "deit_tiny_distilled_patch16_224",
        "vit_tiny_r_s16_p8_224",
        "eva02_tiny_patch14_224",
        "cait_xxs24_224",
        pytest.param("vit_small_patch16_dinov3", marks=pytest.mark.slow),
        pytest.param("vit_small_patch16_rope_mixed_224", marks=pytest.mark.slow),
        pytest.param("beit_base_patch16_224", marks=pytest.mark.slow),
    ],
)
def test_a_row_of_the_table_is_measured_again(arch: str) -> None:
    (listed,) = (copy.deepcopy(each) for each in TESTED if each["architecture"] == arch)
    found = row(arch)
    for each in (found, listed):
        each["ways"] = {way: worked(cell) for way, cell in each.get("ways", {}).items()}
        assert all(v for cell in each["ways"].values() for v in cell.values())
    assert found == listed


def test_the_table_is_of_the_architectures_that_the_script_names() -> None:
    assert tuple(each["architecture"] for each in TESTED) == ARCHITECTURES
    cells = [cell for each in TESTED for cell in each.get("ways", {}).values()]
    numbers = [v for cell in cells for v in cell.values() if not isinstance(v, str)]
    assert max(numbers) < TOLERANCE
    assert sum("ways" in each for each in TESTED) >= 25


def test_the_page_shows_the_table_as_it_was_measured() -> None:
    assert markdown() in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in markdown().splitlines()]
    assert {len(HEADINGS) - len(line) for line in lines} <= {0, 1}  # Stripped of an empty cell.
    yes = {line[0]: line[2:8] for line in lines}
    assert yes["vit_tiny_patch16_224"] == ["yes"] * 6
    assert yes["vit_small_patch16_rope_mixed_224"] == [*["yes"] * 5, "not full"]
    assert yes["beit_base_patch16_224"] == ["no", "no", *["yes"] * 4]
    # Features of a CNN have a head, or all of it trains.
    assert yes["convnext_tiny"] == ["no", "no", "no", "yes", "yes", "no"]


@pytest.mark.parametrize("kind", ["added", "rotary", "mixed"])
@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("prompt_from", [0, 1, 2])
def test_prompts_from_a_later_block_on(kind: str, deep: bool, prompt_from: int) -> None:
    backbone = vit() if kind == "added" else eva(kind)
    model = PromptedViT(backbone, 7, PROMPTS, deep, prompt_from=prompt_from).eval()
    tunables = get_tunables(model)
    blocks = range(prompt_from, 3 if deep else prompt_from + 1)
    assert tunables.keys() == {"head.weight", "head.bias", *(f"prompts.{i}" for i in blocks)}
    shake(tunables)
    set_tunables(model, tunables)
    images = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = timm_logits(backbone, tunables, images, 1.0)
        assert difference(model(images), expected) < TOLERANCE
        stage = model.frozen_stage()
        assert stage == (f"block-{prompt_from}" if prompt_from else "tokens")
        kept = model.frozen_outputs(stage, images)
        assert difference(model.forward_from(stage, kept), expected) < TOLERANCE
