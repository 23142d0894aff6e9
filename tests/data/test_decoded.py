"""Pictures are decoded once for all processes of a comparison, and are the same in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mfd_flower.comparison import Comparison
from mfd_flower.data import decoded, load_set
from mfd_flower.data.decoded import Key, decoded_once, share_decoded
from mfd_flower.data.image_set import PictureSet
from mfd_flower.data.picture_sets import folder_set
from mfd_flower.data.samples import InputSpec
from mfd_flower.runtime.compare import compare

SPEC = InputSpec(8, 3, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Give a folder of two classes, one of its files broken."""
    root, rng = tmp_path / "pictures", np.random.default_rng(0)
    for name, shade in (("dark", 0), ("light", 128)):
        (root / name / "of one").mkdir(parents=True)
        for number in range(12):
            values = rng.integers(shade, shade + 128, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(values).save(root / name / "of one" / f"{number:02}.png")
    (root / "dark" / "of one" / "05.png").write_bytes(b"no picture")
    return root


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "_kept", {})
    monkeypatch.setattr(decoded, "_folder", None)


@pytest.mark.parametrize("decoded_first", [True, False])
def test_another_process_takes_what_one_decoded(
    pictures: Path, tmp_path: Path, decoded_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels with the pictures, though the folder has changed in between."""
    name = f"folder:{pictures}"
    key, expected = Key(name, "", SPEC, False), load_set(name, "", SPEC)

    def find() -> PictureSet:
        return folder_set(str(pictures))

    if decoded_first:
        decoded_once(key, find)
    share_decoded(tmp_path)
    decoded_once(key, find)
    Image.new("RGB", (8, 8)).save(pictures / "dark" / "new.png")
    monkeypatch.setattr(decoded, "_kept", {})  # As another process begins.

    def refuse() -> PictureSet:
        raise AssertionError("looked for again")

    found = decoded_once(key, refuse)
    assert isinstance(found.images, np.memmap)
    for part in ("images", "labels", "client", "is_test"):
        assert np.array_equal(getattr(found, part), getattr(expected, part)), part
    assert (found.classes, found.unreadable) == (expected.classes, expected.unreadable)
    assert found.unreadable != ()
    with pytest.raises(AssertionError, match="looked for again"):
        decoded_once(key._replace(spec=InputSpec(4, 1, (0,), (1,))), refuse)


def test_runs_take_the_pictures_that_were_checked(pictures: Path, tmp_path: Path) -> None:
    """What becomes of the files while they go on does not matter, and no file of theirs stays."""
    tables = {
        "seeds": [0, 1],
        "data": {
            "name": f"folder:{pictures}",
            "nodes": 2,
            "train_samples": 16,
            "test_samples": 7,
            "validation": 0.0,
        },
        "model": {"tune": "head"},
        "train": {"accelerator": "cpu"},
        "strategies": [{"strategy": "local-only", "rounds": 1}],
    }

    @contextmanager
    def spoil(comparison: Comparison, done: int) -> Iterator[Any]:
        for file in pictures.rglob("*.png"):
            file.write_bytes(b"spoiled")
        yield lambda key, event: None

    first = compare(tables, tmp_path / "out", jobs=2, watch=spoil)
    assert len(first.runs) == 2
    assert all("1 of 24 pictures" in run["notes"][0] for run in first.runs)
    assert not (tmp_path / "out" / ".features").exists()


def test_what_a_killed_process_left_is_no_hindrance(pictures: Path, tmp_path: Path) -> None:
    key = Key(f"folder:{pictures}", "", SPEC, False)
    (tmp_path / f"{decoded._place(tmp_path, key).name}.part" / "half").mkdir(parents=True)
    share_decoded(tmp_path)
    found = decoded_once(key, lambda: folder_set(str(pictures)))
    assert len(found.images) == 23
