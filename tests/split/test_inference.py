"""`mfd infer`: a cluster answers, both ways of delivering are billed, bad input is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mfd_flower.models.model_file import TrainedModel
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
        (["nowhere.png", "--csv", "/proc/x"], "--csv = '/proc/x': not writable"),
        (["nowhere.png", "--sheet", "/proc/x"], "--sheet = '/proc/x': not writable"),
        (["nowhere.png"], "PICTURES = 'nowhere.png': no such file"),
    ],
)
def test_bad_input_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[object], said: str
) -> None:
    code, stdout, stderr = call(capsys, "infer", config, *words)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1), "before anything is trained"
    assert said in stderr


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


def test_a_model_of_another_backbone_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The backbone `random` has other weights for each seed, at the same settings."""
    file, random = tmp_path / "trained.safetensors", '[model]\nbackbone = "random"\n'
    config.write_text("seeds = [5]\n" + CONFIG + random)
    assert call(capsys, "infer", config, "--samples", 1, "--save", file)[0] == 0
    kept = file.read_bytes()
    assert call(capsys, "infer", config, "--samples", 1, "--model", file)[0] == 0
    config.write_text("seeds = [0]\n" + CONFIG + random)
    words = ["infer", config, "--samples", 1, "--model", file, "--save", file]
    code, stdout, stderr = call(capsys, *words)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "its backbone's weights are not those of the config" in stderr
    assert file.read_bytes() == kept


def test_a_given_model_is_kept_as_it_is_and_sees_pictures_in_its_own_way(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, again, folder = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "p"))
    assert call(capsys, "infer", config, "--samples", 1, "--save", file)[0] == 0
    model = TrainedModel.load(file)
    cut = replace(model.about.input, crop_mode="center", crop_pct=0.5)
    TrainedModel(model.tensors, replace(model.about, input=cut)).save(file)
    folder.mkdir()
    Image.effect_noise((90, 60), 80).save(folder / "a.png")
    words = ["--model", file, "--save", again, "--json", "--top-k", 3]
    code, stdout, _ = call(capsys, "infer", config, folder, *words)
    assert code == 0
    one, other = TrainedModel.load(file), TrainedModel.load(again)
    assert one.about == other.about
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    (ours,), (whole,) = json.loads(stdout)["predictions"], predict(file, [folder], top_k=3)
    shares = [each["probability"] for each in ours["top"]]
    assert shares == pytest.approx(whole.probabilities, rel=1e-5)


def test_no_more_is_said_to_be_answered_than_was(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A set that comes with a test set may have less of it than the settings ask for."""
    for index in range(16):
        part = "train" if index < 12 else "test"
        place = tmp_path / "set" / part / "ab"[index % 2] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 16 * index).save(place)
    text = CONFIG.replace('"digits"', f'"folder:{tmp_path}/set"')
    config.write_text(text.replace("train_samples = 48", "train_samples = 0"))
    code, stdout, stderr = call(capsys, "infer", config, "--samples", 5)
    assert (code, stdout) == (2, "")
    assert "--samples = 5: from 1 to 4 held out" in stderr
    code, stdout, _ = call(capsys, "infer", config, "--samples", 4, "--json")
    assert code == 0
    assert [each["samples"] for each in json.loads(stdout)] == [4, 4]


def test_pictures_that_cannot_be_read_at_all_are_named_before_anything_runs(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, stdout, stderr = call(capsys, "infer", config, tmp_path / "bad.png")
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert f"1 of 1 pictures cannot be read: {tmp_path / 'bad.png'}: cannot identify" in stderr


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = call(capsys, "infer", "--help")
    assert code == 0
    assert "Example: mfd infer" in stdout
