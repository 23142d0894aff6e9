"""Image sets are read from what packages ship, or the missing package is named."""

from __future__ import annotations

import gzip
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig, RunConfig
from mfd_flower.data import ImageSet, federation, load_federation, load_set, sets
from mfd_flower.data.sets import OPENCLIPART_FOLDERS, SETS, Source
from mfd_flower.names import MAX_CLASSES
from tests.harness import trial


def test_mnist5k_is_balanced_and_upright() -> None:
    digits = load_set("mnist5k")
    assert digits.images.shape == (5000, 28, 28, 1)
    assert np.bincount(digits.labels).tolist() == [500] * 10
    # A mean one is a vertical stroke: ink in the middle column, hardly any in the corners.
    one = digits.images[digits.labels == 1].mean(0)[..., 0]
    assert one[:, 13:15].mean() > 5 * one[:, :5].mean()


def test_digits_span_the_grey_range() -> None:
    digits = load_set("digits")
    assert digits.images.shape == (1797, 8, 8, 1)
    assert (digits.images.min(), digits.images.max()) == (0, 255)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_reads_idx_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {}
    for part, count in (("train", 6), ("t10k", 3)):
        images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = rng.integers(10, size=count, dtype=np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
        written[part] = (images, labels)
    found = load_set("fashion-mnist", str(tmp_path))
    assert np.array_equal(found.images[:6, ..., 0], written["train"][0])
    assert np.array_equal(found.labels[6:], written["t10k"][1])
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03short"))
    with pytest.raises(ConfigError, match="not a whole IDX file"):
        load_set("fashion-mnist", str(tmp_path))


def test_openclipart_drops_duplicates_and_unreadable_files(tmp_path: Path) -> None:
    for index, place in enumerate(OPENCLIPART_FOLDERS.split()):
        folder = tmp_path / place / "sub"
        folder.mkdir(parents=True)
        Image.new("RGBA", (90, 30), (index * 30, 0, 0, 255)).save(folder / "a.png")
    first = tmp_path / "animals" / "sub"
    (first / "b.png").write_bytes((first / "a.png").read_bytes())
    (first / "c.png").write_bytes(b"not a picture")
    found = load_set("openclipart", str(tmp_path))
    assert found.images.shape == (8, 112, 112, 3)
    assert found.labels.tolist() == list(range(8))
    assert found.classes[1:4] == ("flags", "food", "icons")
    assert found.images[3, 56, 56].tolist() == [90, 0, 0]
    assert found.images[3, 2, 2].tolist() == [255, 255, 255]


def test_a_sub_folder_of_openclipart_is_a_client_if_it_has_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "OPENCLIPART_CLIENT_DRAWINGS", 2)
    for place in OPENCLIPART_FOLDERS.split():
        (tmp_path / place).mkdir(parents=True)
    shade = iter(range(9))
    for file in ("fish/a", "fish/deep/b", "birds/c", "d"):
        path = tmp_path / "animals" / f"{file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (next(shade), 0, 0)).save(path)
    found = load_set("openclipart", str(tmp_path))
    assert found.client is not None
    assert found.client.tolist() == ["animals", "animals", "animals/fish", "animals/fish"]


@pytest.mark.parametrize(
    ("name", "package"),
    [("fashion-mnist", "dataset-fashion-mnist"), ("openclipart", "openclipart-png")],
)
def test_missing_set_names_the_package(name: str, package: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"apt-get install {package}"):
        load_set(name, str(tmp_path))


def test_hub_set_is_read_with_its_test_split(tmp_path: Path) -> None:
    for index, label in enumerate(("cat", "dog")):
        folder = tmp_path / "train" / label
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (12, 12), (index * 200, number, 0)).save(folder / f"{number}.png")
    found = load_set("hf:someone/animals", str(tmp_path))
    assert found.classes == ("cat", "dog")
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1]
    assert set(found.images[found.labels == 1][..., 0].ravel().tolist()) == {200}
    assert found.is_test is None
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    (tmp_path / "test" / "cat" / "0.png").unlink()
    found = load_set("hf:someone/animals", str(tmp_path))
    assert found.is_test is not None
    assert sorted(found.labels[~found.is_test].tolist()) == [0, 0, 1, 1]
    assert sorted(found.labels[found.is_test].tolist()) == [0, 1, 1]


OWN = """
import numpy as np
from mfd_flower.data import ImageSet

def stripes(path):
    images = np.zeros((40, 8, 8, 1), np.uint8)
    images[20:, ::2] = 255
    return ImageSet(images, np.repeat([0, 1], 20), ("plain " + path, "striped"))

def labelled_too_high(path):
    found = stripes(path)
    return ImageSet(found.images, found.labels + 1, found.classes)

def as_floats(path):
    found = stripes(path)
    return ImageSet(found.images / 255, found.labels, found.classes)

def a_pair(path):
    return stripes(path).images, stripes(path).labels

def absent(path):
    raise FileNotFoundError("no stripes here")
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module of sets into the folder where the command runs."""
    name = f"own_sets_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_a_function_of_ones_own_is_a_set(
    own_module: str, make_run: Callable[..., RunConfig]
) -> None:
    data = {"name": f"{own_module}:stripes", "path": "here", "train_samples": 24, "test_samples": 8}
    run = make_run("fedavg", rounds=1, data=data, model={"tune": "head"})
    assert load_federation(run.data, 0).images.classes == ("plain here", "striped")
    ended = trial(run)
    assert ended.tensors["head.weight"].shape[0] == 2
    assert ended.accuracy >= 0.5


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("labelled_too_high", "data.name = .*: must give an ImageSet: uint8 images"),
        ("as_floats", "data.name = .*: must give an ImageSet: uint8 images"),
        ("a_pair", "data.name = .*: must give an ImageSet: uint8 images"),
        ("absent", "data.path = 'there': no stripes here$"),
        ("no_such", "data.name = .* has no attribute 'no_such'; accepted: mnist5k, .*:<function>"),
    ],
)
def test_an_own_function_that_gives_none_is_refused(
    own_module: str, function: str, line: str
) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        load_set(f"{own_module}:{function}", "there")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cifar", "hf:", "digits:x", "no_such_module:function"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.name = .*accepted: mnist5k, digits, "):
        load_set(name)


def test_a_new_entry_is_all_that_a_new_set_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_set("digits")
    source = Source(lambda path: replace(digits, classes=(*digits.classes, path)), "usual place")
    monkeypatch.setitem(SETS, "more-digits", source)
    assert load_set("more-digits").classes[-1] == "usual place"
    assert load_set("more-digits", "elsewhere").classes[-1] == "elsewhere"


def test_more_classes_than_messages_carry_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = np.zeros((12, 4, 4, 1), np.uint8)
    many = ImageSet(few, np.arange(12), tuple(map(str, range(MAX_CLASSES + 1))))
    monkeypatch.setattr(federation, "find_set", lambda *told: many)
    with pytest.raises(ConfigError, match="has 32769 classes, accepted: 2 to 32768"):
        load_federation(DataConfig("too-many", nodes=2, test_samples=2), 0)


def test_a_class_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A model file that named it could not be read."""
    for name in ("a", "b\udce9"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    with pytest.raises(ConfigError, match=r"data\.name: class = 'b\\udce9': must be text without"):
        load_federation(DataConfig(f"folder:{tmp_path}", nodes=1, test_samples=1), 0)
