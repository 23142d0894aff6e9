"""What a card says of texts of unknown origin, and which exports are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models import export as package
from mfd_flower.models.export import export
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.timm_form import head_tensors
from tests.models.test_export import saved, trained


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.b www.a.b", r"https\://a.b www\.a.b"),
        ("~~x~~ $y$ @user", r"\~\~x\~\~ \$y\$ \@user"),
        ("a\x1b[31m\u202eb\udce9", r"a\[31mb"),
        ("0.91, 3: x", "0.91, 3: x"),
    ],
)
def test_a_text_of_others_is_no_markup_no_link_and_prints(
    tmp_path: Path, text: str, shown: str
) -> None:
    model = saved(ModelConfig(tune="head"), tmp_path / "model.safetensors", {"strategy": text})
    card = (export(model, tmp_path / "home") / "README.md").read_text()
    assert f"| strategy | {shown} |\n" in card


def test_a_card_says_what_to_give_a_model_that_no_picture_fits(tmp_path: Path) -> None:
    config = ModelConfig("random", "vit_tiny_patch16_224", 32, 4, blocks=1, tune="head")
    model = saved(config, tmp_path / "model.safetensors")
    card = (export(model, tmp_path / "home") / "README.md").read_text()
    assert "A picture file has no 4 channels" in card
    assert "(batch, 4, 32, 32)" in card
    assert "create_transform" not in card


def test_small_logits_are_compared_by_their_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(ModelConfig(tune="head"))
    small = {name: 1e-6 * tensor for name, tensor in whole.tensors.items()}
    model = TrainedModel(small, whole.about)
    export(model, tmp_path / "right")

    def doubled(model: Any, head: Any) -> dict[str, Tensor]:
        return {name: tensor * 2 for name, tensor in head_tensors(model, head).items()}

    monkeypatch.setattr(package, "head_tensors", doubled)
    with pytest.raises(ConfigError, match=r"exported logits are .* apart"):
        export(model, tmp_path / "wrong")


def test_an_onnx_model_of_other_logits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "_write_onnx", lambda *given: None)
    monkeypatch.setattr(package, "_onnx_model", lambda path: lambda images: torch.zeros(2, 4))
    model = saved(ModelConfig(tune="head"), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"exported logits are .* apart"):
        export(model, tmp_path / "home", onnx=True)
