"""Picture files as a model's evaluation transform sees them, decoded straight at its size.

Whatever a file holds becomes 8 bits of grey or RGB, upright by its EXIF orientation and opaque on
white; the transform is timm's own (`timm.data.create_transform`). A file that cannot be read whole
does not end the reading: it is named.
"""

from __future__ import annotations

import io
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from mfd_flower.data.samples import InputSpec

DRAFT_GAP = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the pixels a side that the
transform resizes to, as Pillow's thumbnails do with `reducing_gap`."""
MOST_RESIZED_PIXELS = 2**26
"""What resizing the short side of a long and thin picture may make of the whole."""
QUIET_S = 5.0
"""Reading that takes longer shows its progress on a terminal."""
_hidden = False


@dataclass(frozen=True)
class Embedded:
    """A picture inside a data set: its place there, and the bytes of its file if it has any."""

    place: str
    data: bytes | None

    def __str__(self) -> str:
        return self.place


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read: its index among those asked for, its name, and why."""

    index: int
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file} ({self.reason})"


def read_pictures(
    files: Sequence[Path | str | Embedded], spec: InputSpec, crop_mode: str = ""
) -> tuple[NDArray[np.uint8], list[Unreadable]]:
    """Decode pictures as a model with this `spec` expects them before normalisation.

    Parameters
    ----------
    files
        Of any format that Pillow reads; of several frames the first one counts.
    crop_mode
        What becomes of a picture that is not square, by timm's names: ``center`` cuts, ``squash``
        distorts, ``border`` pads with the model's mean colour. Without it the model's own.

    Returns
    -------
    pixels
        ``(readable, side, side, channels)`` in the order of the files, 1 channel or 3.
    unreadable
        The others, in the same order.
    """
    spec = replace(spec, crop_mode=crop_mode or spec.crop_mode)
    transform = _evaluation_transform(spec)

    def read(index: int) -> NDArray[np.uint8] | Unreadable:
        try:
            with _opened(files[index]) as picture:
                return np.asarray(transform(_plain(picture, spec))).transpose(1, 2, 0)
        except Exception as error:  # Decoders raise whatever they meet, errors of many types.
            reason = " ".join(str(error).split()) or type(error).__name__
            return Unreadable(index, str(files[index]), reason)

    pixels = np.empty((len(files), spec.size_px, spec.size_px, len(_mode(spec))), np.uint8)
    unreadable = list[Unreadable]()
    pool = ThreadPoolExecutor(cpu_count())
    try:
        found = pool.map(read, range(len(files)))
        for index, picture in enumerate(_with_progress(found, len(files))):
            if isinstance(picture, Unreadable):
                unreadable.append(picture)
            else:
                pixels[index - len(unreadable)] = picture
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels[: len(files) - len(unreadable)], unreadable


def _mode(spec: InputSpec) -> str:
    return "L" if spec.channels == 1 else "RGB"


def _evaluation_transform(spec: InputSpec) -> Callable[[Image.Image], Any]:
    """Return timm's transform of a picture to a uint8 tensor ``(channels, side, side)``."""
    from timm.data import create_transform

    return create_transform(
        spec.size_px,
        interpolation=spec.interpolation,
        mean=spec.mean,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        normalize=False,
    )


def hide_progress() -> None:
    """Show nothing on a terminal from now on."""
    global _hidden
    _hidden = True


def _with_progress(found: Iterator[Any], total: int) -> Iterator[Any]:
    # A worker process would write into the bars of the command that started it.
    hidden = True if _hidden or multiprocessing.parent_process() else None
    yield from tqdm(found, "reading pictures", total, leave=False, delay=QUIET_S, disable=hidden)


def _opened(file: Path | str | Embedded) -> Image.Image:
    if not isinstance(file, Embedded):
        return Image.open(file)
    if file.data is None:
        raise ValueError("no picture there")
    return Image.open(io.BytesIO(file.data))


def _plain(picture: Image.Image, spec: InputSpec) -> Image.Image:
    """Decode a picture: 8 bits, grey or RGB as the model wants it, upright, on white."""
    side = math.floor(spec.size_px / spec.crop_pct)
    short, long = sorted(picture.size)
    if spec.crop_mode == "center" and side * side * long > MOST_RESIZED_PIXELS * short:
        raise ValueError(f"too long and thin, {long} x {short} pixels")
    picture.draft(None, (DRAFT_GAP * side, DRAFT_GAP * side))
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith(("I", "F")):
        picture = _in_8_bits(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", picture.size, "white")
        picture.paste(layer, mask=layer)
    return picture.convert(_mode(spec))


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Map whole numbers of 16 bits, or numbers from 0 to 1, to 0 to 255.

    What a larger number means no file says, and a scale of each picture's own would make unlike
    pictures alike.
    """
    values = np.asarray(picture)
    high = 1 if picture.mode == "F" else 2**16 - 1
    if not (values.min() >= 0 and values.max() <= high):
        raise ValueError(f"has values outside 0 to {high}")
    return Image.fromarray(np.rint(values * np.float32(255 / high)).astype(np.uint8))
