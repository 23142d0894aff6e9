"""A trained model from its file: as good as the run measured, and nothing else is taken for one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.files import write_text
from mfd_flower.models import input_spec, load_backbone
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.predict import Pictures, Prediction, picture_files, predict
from mfd_flower.models.residents import images_of
from mfd_flower.node import evaluate_tunables
from mfd_flower.report.sheet import write_sheet
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from tests.test_cli import call

CLASSES = [str(digit) for digit in range(10)]


def test_predictions_on_the_test_set_are_as_good_as_the_run_measured(
    kept: tuple[RunConfig, Path], pictures: Path
) -> None:
    run, file = kept
    federation = load_federation(run.data, run.seed)
    labels = federation.images.labels[federation.test].tolist()
    found = predict(file, [pictures])
    right = sum(each.labels == (CLASSES[label],) for each, label in zip(found, labels, strict=True))
    model = TrainedModel.load(file)
    assert abs(right / len(labels) - model.about.made["metrics"]["accuracy"]) <= 0.05
    measured = evaluate_tunables(run, dict(model.tensors))
    assert measured.accuracy == model.about.made["metrics"]["accuracy"]


def test_top_k_adds_up_and_is_in_order(kept: tuple[RunConfig, Path], pictures: Path) -> None:
    for each in predict(kept[1], [pictures / "00*.png"], top_k=99):
        assert sorted(each.labels) == CLASSES
        assert list(each.probabilities) == sorted(each.probabilities, reverse=True)
        assert sum(each.probabilities) == pytest.approx(1)
    with pytest.raises(ConfigError, match="top_k = 0: must be at least 1"):
        predict(kept[1], [pictures], top_k=0)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_classified(
    kept: tuple[RunConfig, Path],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, broken = pictures / "000.png", tmp_path / "broken.png"
    broken.write_bytes(whole.read_bytes()[:-40])
    table, sheet = tmp_path / "found.csv", tmp_path / "found.png"
    places = [broken, whole, pictures / "001.png"]
    files = ["--csv", table, "--sheet", sheet]
    code, out, err = call(capsys, "predict", kept[1], *places, "--json", "--top-k", 2, *files)
    assert (code, err.count("\n")) == (1, 1)
    assert f"1 of 3 pictures cannot be read: {broken}" in err
    first, second, third = json.loads(out)
    assert first.keys() == {"picture", "error"}
    alone = predict(kept[1], [whole], top_k=2)[0]
    assert second["top"][0] == {"class": second["class"], "probability": second["probability"]}
    assert [each["class"] for each in second["top"]] == list(alone.labels)
    assert third["picture"] == str(pictures / "001.png")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["", second["class"], third["class"]]
    assert rows[0]["error"] == first["error"]
    with Image.open(sheet) as page:
        assert page.format == "PNG"
        assert page.width > 2 * 160


def models_of(tables: dict[str, Any], folder: Path) -> tuple[RunConfig, TrainedModel]:
    """Run one round of a ViT whose pictures timm cuts to 0.9 of their sides."""
    model = {"backbone": "random", "arch": "vit_tiny_patch16_224", "img_size": 32, "blocks": 1}
    small = {"nodes": 2, "train_samples": 8, "test_samples": 4}
    tables = {"data": {**small, **tables}, "model": {**model, "tune": "head"}}
    run = RunConfig.from_tables({**tables, "strategy": {"name": "fedavg", "rounds": 1}})
    return run, TrainedModel.load(folder / run_locally(run, files=RunFiles(folder, "a"))["model"])


def test_a_picture_of_a_set_in_memory_is_seen_as_in_training(tmp_path: Path) -> None:
    """Whole, though timm would cut a tenth off each side for this backbone."""
    run, model = models_of({"name": "mnist5k"}, tmp_path)
    assert input_spec(load_backbone(run.model)).crop_pct == 0.9
    federation = federation_of(run)
    trained_on = images_of(run, "test").inputs[:]
    for place, index in enumerate(federation.test):
        digit = Image.fromarray(federation.images.images[index, ..., 0])
        digit.resize((112, 112), Image.Resampling.NEAREST).save(tmp_path / f"{place}.png")
    seen = Pictures.read(picture_files([tmp_path / "?.png"]), model.spec).images
    assert (seen - trained_on).abs().mean() < 0.06  # Of values from -1 to 1.


def test_picture_files_are_seen_as_timm_shows_them(tmp_path: Path) -> None:
    for index in range(14):
        place = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 50), 60).save(place)
    run, model = models_of({"name": f"folder:{tmp_path}/pictures"}, tmp_path)
    assert model.spec == input_spec(load_backbone(run.model))
    files = picture_files([tmp_path / "pictures"])
    seen = {bytes(image.numpy()) for image in Pictures.read(files, model.spec).images}
    assert {bytes(image.numpy()) for image in images_of(run, "test").inputs[:]} <= seen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.safetensors", "."], "MODEL = 'nothing.safetensors': not a safetensors file"),
        (["{model}", "nowhere.png"], "PICTURES = 'nowhere.png': no such file, and no pictures"),
        (["{model}", "{empty}"], "no such file, and no pictures there"),
        (["{model}", "{pictures}", "--sheet", "/proc/x.png"], "--sheet = '/proc/x.png': not"),
        (["{model}", "{pictures}", "--csv", "{empty}"], "not writable (is a folder)"),
        (["{model}", "~nobodyx/a.png"], "PICTURES = '~nobodyx/a.png': Could not determine home"),
        (["{model}", 5000 * "a"], "PICTURES = str of length 5000: File name too long"),
    ],
)
def test_bad_input_is_one_line(
    kept: tuple[RunConfig, Path],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    places = {"model": kept[1], "pictures": pictures, "empty": tmp_path}
    code, out, err = call(capsys, "predict", *(word.format(**places) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_name_that_is_no_text_is_escaped_in_a_table(
    kept: tuple[RunConfig, Path],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture, table = tmp_path / "a\udce9.png", tmp_path / "t.csv"
    picture.write_bytes((pictures / "000.png").read_bytes())
    code, _, _ = call(capsys, "predict", kept[1], picture, "--json", "--csv", table)
    assert code == 0
    assert rf"{tmp_path}/a\udce9.png," in table.read_text()
    assert not table.with_name("t.csv.partial").exists()


def test_patterns_mean_files_that_are_seen_and_end_where_links_go_in_circles(
    pictures: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.txt", "deep/c.png", ".d.png", ".hidden/e.png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.symlink_to(pictures / "000.png")
    for name in ("one", "two", "deep/three"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)

    def found(pattern: str) -> list[str]:
        return [str(each.relative_to(tmp_path)) for each in picture_files([tmp_path / pattern])]

    assert found("**") == ["a.png", "b.txt", "deep/c.png"]
    assert found("**/*.png") == ["a.png", "deep/c.png"]
    assert found("[ab].*") == ["a.png", "b.txt"]
    assert found(".hidden/*") == [".hidden/e.png"]
    assert found("one/*.png") == ["one/a.png"]
    with pytest.raises(ConfigError, match=r"\*\.gif': no such file, and no pictures there"):
        found("**/*.gif")


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(OSError, match=r"t\.csv"):
        write_text(tmp_path / "t.csv", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_more_pictures_than_a_sheet_holds_are_refused_before_any_is_classified(
    kept: tuple[RunConfig, Path],
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mfd_flower.models.predict.read_pictures", None)
    words = [*[pictures] * 11, "--sheet", "sheet.png"]
    code, out, err = call(capsys, "predict", kept[1], *words)
    assert (code, out) == (2, "")
    assert err == "mfd: --sheet = 440: has room for 400 pictures\n"
    assert not Path("sheet.png").exists()


def test_any_name_of_a_class_stands_on_a_sheet(pictures: Path, tmp_path: Path) -> None:
    sheets = []
    for name in ("a b", "a\nb"):
        picture = str(pictures / "000.png")
        write_sheet(tmp_path / "s.png", [Prediction(picture, (name, 10**5 * "W"), (0.6, 0.4))])
        sheets.append((tmp_path / "s.png").read_bytes())
    assert sheets[0] == sheets[1]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
