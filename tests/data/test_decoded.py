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
from mfd_flower.data import decoded
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
        (root / name).mkdir(parents=True)
        for number in range(12):
            values = rng.integers(shade, shade + 128, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(values).save(root / name / f"{number:02}.png")
    (root / "dark" / "05.png").write_bytes(b"no picture")
    return root


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "_kept", {})
    monkeypatch.setattr(decoded, "_folder", None)


@pytest.mark.parametrize("decoded_first", [True, False])
def test_another_process_maps_what_one_decoded(
    pictures: Path, tmp_path: Path, decoded_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key(f"folder:{pictures}", "", SPEC, False)
    expected = folder_set(str(pictures)).decoded(SPEC)
    if decoded_first:
        decoded_once(folder_set(str(pictures)), key)
    share_decoded(tmp_path)
    decoded_once(folder_set(str(pictures)), key)

    def refuse(*given: object) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoded, "_kept", {})  # As another process begins.
    monkeypatch.setattr(PictureSet, "decoded", refuse)
    found = decoded_once(folder_set(str(pictures)), key)
    assert isinstance(found.images, np.memmap)
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.labels, expected.labels)
    assert found.unreadable == expected.unreadable != ()
    with pytest.raises(AssertionError, match="decoded again"):
        decoded_once(folder_set(str(pictures)), key._replace(spec=InputSpec(4, 1, (0,), (1,))))


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
