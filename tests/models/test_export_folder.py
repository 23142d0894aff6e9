"""An export is whole or not there, ONNX is an option, and other logits are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models import export as package
from mfd_flower.models.export import export
from mfd_flower.models.timm_form import head_tensors
from tests.models.test_export import logits_of, saved, trained


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["prompts", "lora"])
def test_onnx_gives_the_trained_models_logits(tmp_path: Path, tune: str) -> None:
    import onnxruntime

    config = ModelConfig(tune=tune)  # type: ignore[arg-type]
    model = saved(config, tmp_path / "model.safetensors")
    folder = export(model, tmp_path / "home", onnx=True)
    images = torch.randn(3, 1, 28, 28)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert re.search(r"`model.onnx` .* \| \d\S* \|\n", (folder / "README.md").read_text())
    expected = logits_of(trained(config).assembled(), images)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-5)
    assert (
        'session.run(["logits"], {"images": images.numpy()})' in (folder / "README.md").read_text()
    )


def test_onnx_without_its_packages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "onnx" else name)
    model = saved(ModelConfig(tune="head"), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"--onnx = True: needs onnx: pip install 'mfd-flower"):
        export(model, tmp_path / "home", onnx=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(ModelConfig(tune="lora"), tmp_path / "model.safetensors")

    def fails(*given: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(package, "model_card", fails)
        with pytest.raises(KeyboardInterrupt):
            export(model, tmp_path / "a" / "home")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "empty").mkdir()
    for out in ("a/home", "empty"):
        folder = export(model, tmp_path / out)
        names = {path.name for path in folder.iterdir()}
        assert {"README.md", "adapter_config.json", "model.safetensors"} <= names
        modes = {path.stat().st_mode for path in folder.iterdir()}
        assert len(modes) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a", "empty", model.name}


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    model = saved(ModelConfig(tune="head"), tmp_path / "model.safetensors")
    for out in (tmp_path, model):
        with pytest.raises(ConfigError, match=r"--out = .*: accepted: a folder that is empty"):
            export(model, out)
    with pytest.raises(ConfigError, match=r"--out = .*: not writable"):
        export(model, "/proc/home")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_logits_than_the_trained_models_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten(model: Any, head: Any) -> dict[str, Tensor]:
        return {name: tensor * 0 for name, tensor in head_tensors(model, head).items()}

    monkeypatch.setattr(package, "head_tensors", forgotten)
    for tune in ("head", "lora"):
        model = saved(ModelConfig(tune=tune), tmp_path / "model.safetensors")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"exported logits are .* apart"):
            export(model, tmp_path / "home")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
