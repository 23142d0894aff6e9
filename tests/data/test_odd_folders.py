"""Folders and tables as people have them: links, hidden files, odd names, one class, no test."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig
from mfd_flower.data import load_federation, load_set
from mfd_flower.data.image_set import PictureSet
from mfd_flower.data.picture_sets import folder_set
from mfd_flower.data.pictures import pictures_below
from tests.data.test_picture_sets import ROWS, SPEC, Row, as_csv, as_folder

CROPS = ("center", "squash", "border")


def test_labels_stay_apart_as_they_are_written(tmp_path: Path) -> None:
    """No two texts become one class but numbers that some tool wrote as floats."""
    texts = ["1", "01", "001", "1_0", "10", "1e1", "100000000000000001", "100000000000000002"]
    file = as_csv([("train", text, "", n) for n, text in enumerate(texts)], tmp_path)
    assert set(load_set(file).classes) == set(texts)
    numbers = ["100000000000000001", "100000000000000002", "9.0", "9"]
    file = as_csv([("train", text, "", n) for n, text in enumerate(numbers)], tmp_path)
    assert load_set(file).classes == ("9", *numbers[:2])


def test_numbered_folders_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    rows: list[Row] = [("train", str(n), "", n) for n in (1, 2, 10)]
    for name, write in (("folder", as_folder), ("table", as_csv)):
        (tmp_path / name).mkdir()
        assert load_set(write(rows, tmp_path / name)).classes == ("1", "2", "10")


def test_links_lead_nowhere_twice_and_not_upwards(tmp_path: Path) -> None:
    as_folder([("cat", "a", "", 1), ("dog", "b", "", 2), ("dog", "b", "c", 3)], tmp_path)
    (tmp_path / "dog" / "all").symlink_to(tmp_path)
    (tmp_path / "dog" / "self").symlink_to(".")
    (tmp_path / "dog" / "b" / "self").symlink_to("..")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cat" / "linked").symlink_to(tmp_path / "shared")
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "4.png")
    (tmp_path / "elsewhere").rename(tmp_path / "shared")
    found = folder_set(str(tmp_path))
    names = [(found.classes[k], f.name) for f, k in zip(found.files, found.labels, strict=True)]
    assert names == [
        ("cat", "1.png"),
        ("cat", "4.png"),
        ("dog", "2.png"),
        ("dog", "3.png"),
        ("shared", "4.png"),
    ]


def test_the_order_of_a_folder_does_not_decide_which_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_folder([("cat", "real", "", 1)], tmp_path)
    for name in ("a", "z"):
        (tmp_path / "cat" / name).symlink_to(tmp_path / "cat" / "real")
    true, found = Path.iterdir, []
    for reverse in (False, True):
        listed = functools.partial(sorted, reverse=reverse)
        monkeypatch.setattr(Path, "iterdir", lambda self, listed=listed: iter(listed(true(self))))
        found.append(pictures_below(tmp_path / "cat"))
    assert found == [[tmp_path / "cat" / "a" / "1.png"]] * 2


def test_only_pictures_that_can_be_seen_are_read(tmp_path: Path) -> None:
    """No hidden folder at any depth, no pipe, and every format that Pillow reads well."""
    (tmp_path / "cat" / ".thumbnails").mkdir(parents=True)
    (tmp_path / "dog").mkdir()
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    for name in ("cat/1.gif", "cat/.thumbnails/1.png", "dog/2.jp2", "dog/notes.txt"):
        kind = "GIF" if name.endswith("gif") else "PNG"
        Image.new("RGB", (8, 8)).save(tmp_path / name, kind)
    found = folder_set(str(tmp_path))
    assert [file.name for file in found.files] == ["1.gif", "2.jp2"]
    with pytest.raises(ConfigError, match=r"pipe.png \(not a file\)"):
        PictureSet([tmp_path / "dog" / "pipe.png"], np.zeros(1, np.int64), ("a", "b")).decoded(SPEC)


def test_the_model_does_not_decide_which_pictures_there_are(tmp_path: Path) -> None:
    rows: list[Row] = [("train", label, "", n) for n in range(20) for label in ("a", "b")]
    folder = as_folder(rows, tmp_path)
    Image.new("RGB", (3000, 1)).save(tmp_path / "train" / "a" / "thin.png")
    Image.new("RGB", (1200, 20)).save(tmp_path / "train" / "a" / "long.png")
    specs = [replace(SPEC, size_px=size, crop_mode=mode) for size in (8, 300) for mode in CROPS]
    config = DataConfig(folder, nodes=2, train_samples=0, test_samples=5)
    tests = [load_federation(config, 0, spec) for spec in specs]
    assert {len(each.images.labels) for each in tests} == {41}
    assert {tuple(each.test) for each in tests} == {tuple(tests[0].test)}


@pytest.mark.parametrize(
    "name",
    ["folder:~nosuchuser/x", "csv:~nosuchuser/x", "folder:a\0b", ":f", ".x:f", "os:sep"],
)
def test_no_name_ends_in_a_traceback(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.name = [^\n]*$"):
        load_set(name)


def test_names_with_line_breaks_are_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "a\nb" / "x\n\x1b[31m.png").write_bytes(b"none")
    Image.new("RGB", (8, 8)).save(tmp_path / "c" / "1.png")
    with pytest.raises(ConfigError) as refused:
        load_set(f"folder:{tmp_path}", "", SPEC, strict=True)
    assert "\\n\\x1b[31m.png" in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_test_set_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    folder = as_folder([row for row in ROWS if row[0] == "train"], tmp_path)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "1.png").write_bytes(b"none")
    with pytest.raises(ConfigError, match="none of its test pictures can be read"):
        load_federation(DataConfig(folder, nodes=2), 0)


def test_one_class_is_refused(tmp_path: Path) -> None:
    folder = as_folder([("train", "cat", "", 1), ("train", "cat", "", 2)], tmp_path)
    with pytest.raises(ConfigError, match="has 1 classes, accepted: 2 to"):
        load_federation(DataConfig(folder, nodes=1, test_samples=1), 0)
