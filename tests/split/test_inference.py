"""`mfd infer`: a cluster answers, both ways of delivering are billed, bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mfd_flower.models.predict import predict
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
    code, stdout, stderr = call(capsys, *words, "--model", file)
    again = json.loads(stdout)[0]
    assert "training" not in stderr
    assert code == 0
    assert {**again, "wall_s": 0} == {**light, "wall_s": 0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", 41], "--samples = 41: from 1 to 40 held out"),
        (["--strategy", "fedavg"], "strategy = 'fedavg': accepted: one that serves"),
        (["--model", "nothing.safetensors"], "not a safetensors file"),
        (["--save", "/proc/x"], "--save = '/proc/x': not writable"),
        (["nowhere.png"], "PICTURES = 'nowhere.png': no such file"),
    ],
)
def test_bad_input_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[object], said: str
) -> None:
    code, stdout, stderr = call(capsys, "infer", config, *words)
    assert code == 2
    assert said in stderr.splitlines()[-1]
    assert stdout == ""


def test_the_asker_gets_for_its_pictures_what_the_whole_model_says(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And nobody else does: the answer stays in the asker's state."""
    file, folder = tmp_path / "trained.safetensors", tmp_path / "pictures"
    folder.mkdir()
    for shade in (0, 90, 250):
        Image.new("L", (40, 28), shade).save(folder / f"{shade:03}.png")
    (folder / "300.png").write_bytes(b"no picture")
    words = ["infer", config, folder, "--json", "--top-k", 3, "--save", file]
    code, stdout, stderr = call(capsys, *words, "--csv", tmp_path / "found.csv")
    assert code == 1
    assert "1 of 4 pictures cannot be read" in stderr.splitlines()[-1]
    found = json.loads(stdout)
    assert [each["samples"] for each in found["served"]] == [3, 3]
    assert [each["accuracy"] for each in found["served"]] == [None, None]
    for ours, whole in zip(found["predictions"], predict(file, [folder], top_k=3), strict=True):
        assert [each["class"] for each in ours.get("top", [])] == list(whole.labels)
        shares = [each["probability"] for each in ours.get("top", [])]
        assert shares == pytest.approx(whole.probabilities, rel=1e-5)
    code, stdout, _ = call(capsys, "infer", config, folder / "0*.png", "--model", file)
    assert code == 0
    assert "tunables" in stdout
    assert "probability" in stdout


def test_a_model_of_other_settings_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "trained.safetensors"
    assert call(capsys, "infer", config, "--samples", 1, "--save", file)[0] == 0
    config.write_text(CONFIG + "[model]\nprompts = 3\n")
    code, _, stderr = call(capsys, "infer", config, "--model", file)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "its settings of the model are not those of the config" in stderr


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = call(capsys, "infer", "--help")
    assert code == 0
    assert "Example: mfd infer" in stdout
