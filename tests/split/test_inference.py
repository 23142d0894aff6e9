"""`mfd infer`: a cluster answers, both ways of delivering are billed, bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cli import call

CONFIG = """
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[[strategies]]
strategy = "hfsl"
rounds = 1
options = { cluster_size = 3 }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


def test_trained_tunables_answer_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config.with_name("trained.safetensors")
    words = ["infer", config, "--samples", 20, "--json"]
    code, stdout, stderr = call(capsys, *words, "--save", file)
    assert code == 0
    assert "training: round 1 of" in stderr
    light, whole = json.loads(stdout)
    assert light["accuracy"] == whole["accuracy"]
    assert light["request_bytes"] == whole["request_bytes"]
    assert light["shipped_bytes"] < 0.01 * whole["shipped_bytes"]
    assert light["delivery_s"] < whole["delivery_s"]
    assert light["samples_per_s"] * light["latency_s"] == pytest.approx(20)
    code, stdout, stderr = call(capsys, *words, "--tunables", file)
    again = json.loads(stdout)[0]
    assert "training" not in stderr
    assert code == 0
    assert {**again, "wall_s": 0} == {**light, "wall_s": 0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", 41], "--samples = 41: from 1 to 40 held out"),
        (["--strategy", "fedavg"], "strategy = 'fedavg': accepted: one that serves"),
        (["--tunables", "nothing.safetensors"], "not a safetensors file"),
    ],
)
def test_bad_input_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[object], said: str
) -> None:
    code, stdout, stderr = call(capsys, "infer", config, *words)
    assert code == 2
    assert said in stderr.splitlines()[-1]
    assert stdout == ""


def test_tunables_of_another_model_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import save_file

    file = config.with_name("other.safetensors")
    save_file({"head.weight": torch.zeros(2, 2)}, file)
    code, _, stderr = call(capsys, "infer", config, "--tunables", file)
    assert code == 2
    assert "tunables missing" in stderr


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = call(capsys, "infer", "--help")
    assert code == 0
    assert "Example: mfd infer" in stdout
