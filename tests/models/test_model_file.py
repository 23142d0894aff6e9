"""What is read from a model file is what was written; nothing else is taken for a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.predict import predict
from tests.test_cli import call

CLASSES = [str(digit) for digit in range(10)]


def changed(file: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a model file whose tensors or metadata are changed; nothing else is."""
    with safe_open(file, "pt") as opened:
        told = dict(opened.metadata())
    tensors: dict[str, Any] = dict(load_file(file))
    about = json.loads(told["description"])
    parts = {"tensors": tensors, "about": about, "told": told}
    change(parts)
    told["description"] = json.dumps(about)
    save_file(tensors, path, told)
    return path


def no_number(parts: dict[str, Any]) -> None:
    parts["tensors"]["head.bias"][3] = float("nan")


def too_large(parts: dict[str, Any]) -> None:
    bias = parts["tensors"]["head.bias"].double()
    parts["tensors"]["head.bias"] = bias.index_fill(0, torch.tensor([3]), 1e300)


def whole_numbers(parts: dict[str, Any]) -> None:
    parts["tensors"]["head.bias"] = parts["tensors"]["head.bias"].to(torch.int8)


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not finite": (no_number, "head.bias = 'float32': has values that are not finite"),
    "not finite in fp32": (too_large, "head.bias = 'float64': has values that are not finite as"),
    "integers": (whole_numbers, "head.bias = 'int8': accepted: float32, float16"),
    "other weights": (
        lambda p: p["about"].update(backbone_digest="0" * 64),
        "model.backbone = 'fm-tiny': its weights are others: digest",
    ),
    "no format": (lambda p: p["told"].pop("format"), "format = None: accepted: mfd-flower model 1"),
    "no classes": (lambda p: p["about"].pop("classes"), "classes = None: missing"),
    "one class": (lambda p: p["about"].update(classes=["a"]), "must have 2 to 32768 values"),
    "other classes": (lambda p: p["about"].update(classes=["a", "b"]), "tunable head"),
    "other model": (lambda p: p["about"]["model"].update(prompts=3), "tunable prompts.0"),
    "unknown setting": (lambda p: p["about"]["model"].update(x=3), "model.x = 3: unknown key"),
    "other backbone": (
        lambda p: p["about"]["model"].update(backbone="file:/dev/null", arch="fm-tiny"),
        "not a safetensors file",
    ),
    "control characters": (
        lambda p: p["tensors"].update({"x\nmfd: all is well\x1b[31m": torch.zeros(2)}),
        r"tensor = 'x\nmfd: all is well\x1b[31m': no tunable has such a name",
    ),
    "lone surrogate": (
        lambda p: p["about"]["classes"].__setitem__(0, "\udce9"),
        r"classes[0] = '\udce9': must be text without lone surrogates",
    ),
    "backbone of no name": (
        lambda p: p["about"]["model"].update(backbone="file:\ud800"),
        r"model.backbone = 'file:\ud800': must be text without lone surrogates",
    ),
    "negative seed": (lambda p: p["about"].update(seed=-1), "seed = -1: must be at least 0"),
    "no input": (lambda p: p["about"].pop("input"), "input = None: missing"),
    "missing tensor": (lambda p: p["tensors"].pop("head.bias"), "tunables missing: head.bias"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_model_is_refused_in_one_line(
    kept: tuple[RunConfig, Path],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    change, said = REFUSALS[case]
    bad = changed(kept[1], tmp_path / "bad.safetensors", change)
    code, out, err = call(capsys, "predict", bad, pictures, "--csv", tmp_path / "t.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (tmp_path / "t.csv").exists()


INPUTS: dict[str, tuple[Any, str]] = {
    "size_px": (224, "input.size_px = 224: the backbone's is 28"),
    "channels": (3, "input.channels = 3: the backbone's is 1"),
    "mean": ([0.5, 0.5], "input.mean = (0.5, 0.5): the backbone's is (0.5,)"),
    "std": ([0.0], "input.std[0] = 0.0: must be at least 0.001"),
    "interpolation": ("cubic", "input.interpolation = 'cubic': accepted: nearest, bilinear"),
    "crop_pct": (float("nan"), "input.crop_pct = nan: must be finite"),
    "crop_mode": (["border"], "input.crop_mode = ['border']: accepted: center"),
    "crop": (1, "input.crop = 1: unknown key"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_the_backbone_does_not_take_is_refused(
    kept: tuple[RunConfig, Path], pictures: Path, tmp_path: Path, name: str
) -> None:
    value, said = INPUTS[name]

    def change(parts: dict[str, Any]) -> None:
        parts["about"]["input"][name] = value

    bad = changed(kept[1], tmp_path / "bad.safetensors", change)
    with pytest.raises(ConfigError, match=re.escape(said)):
        predict(bad, [pictures / "000.png"])


def test_the_input_in_the_file_decides_how_pictures_are_seen(
    kept: tuple[RunConfig, Path], pictures: Path, tmp_path: Path
) -> None:
    def darker(parts: dict[str, Any]) -> None:
        parts["about"]["input"]["mean"] = [0.9]

    other = changed(kept[1], tmp_path / "other.safetensors", darker)
    assert TrainedModel.load(other).spec.mean == (0.9,)
    ours, theirs = (predict(file, [pictures / "000.png"]) for file in (kept[1], other))
    assert ours != theirs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read(
    kept: tuple[RunConfig, Path], pictures: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    def to(parts: dict[str, Any]) -> None:
        parts["tensors"].update({n: t.to(dtype) for n, t in parts["tensors"].items()})

    other = changed(kept[1], tmp_path / "other.safetensors", to)
    ours, theirs = (predict(file, [pictures / "00*.png"]) for file in (kept[1], other))
    for a, b in zip(ours, theirs, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=0.05)


def test_a_file_that_was_cut_off_or_changed_anywhere_is_refused_or_is_another_model(
    kept: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    # Without settings, whose numbers can be spelled in two ways: 1e-10, 1E-10.
    own, bad = TrainedModel.load(kept[1]), tmp_path / "bad.safetensors"
    own = replace(own, about=replace(own.about, made={}))
    own.save(bad)
    data = bad.read_bytes()
    for length in [0, 1, 7, 8, 100, len(data) // 2, len(data) - 1]:
        bad.write_bytes(data[:length])
        with pytest.raises(ConfigError, match="MODEL"):
            TrainedModel.load(bad)
    generator, header = np.random.default_rng(0), 8 + int.from_bytes(data[:8], "little")
    # Of all kinds: the header's length, each of its words, and numbers.
    for place in [*range(8), *range(8, header, 4), *range(header, len(data), len(data) // 30)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(generator.integers(8))
        bad.write_bytes(flipped)
        try:
            found = TrainedModel.load(bad)
        except ConfigError:
            continue
        same = found.tensors.keys() == own.tensors.keys() and all(
            torch.equal(found.tensors[name], own.tensors[name]) for name in own.tensors
        )
        assert not same or found.about != own.about


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
