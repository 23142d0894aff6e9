"""Picture files as a model's evaluation transform sees them, decoded straight at its size.

Whatever a file holds becomes 8 bits of grey or RGB, upright by its EXIF orientation and opaque on
white; the transform is timm's own (`timm.data.create_transform`). A file that cannot be read whole
does not end the reading: it is named.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mfd_flower.data.samples import CropMode, InputSpec, of_channels

DRAFT_GAP = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the pixels a side that the
transform resizes to, as Pillow's thumbnails do with `reducing_gap`."""
MOST_SIDES = 64
"""How many times as long as wide a picture may be: resizing the short side makes the other larger.
The same for all models, so that they see the same pictures."""
LARGE_PIXELS = 2**24
"""Pictures of more are decoded one after another, whatever memory they take."""
STRIP_PX = 512
"""Height of what is made opaque at a time."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names for what files in folders are taken for pictures."""
ORIENTATION = 0x0112
"""EXIF's number for it."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of an orientation upright (Exif 2.32, table 4)."""
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
    files: Sequence[Path | str | Embedded], spec: InputSpec, crop_mode: CropMode | Literal[""] = ""
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
                _draft(picture, spec)
                with _room_for(picture):
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
        mean=of_channels(spec.mean, len(_mode(spec))),
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


def pictures_below(folder: Path) -> list[Path]:
    """Return the pictures in a folder and below it, by folder and name.

    Links lead nowhere twice, and not upwards; what is hidden is none.
    """
    found: list[Path] = []
    above = set(folder.resolve().parents)
    seen: set[Path] = set()
    left = [folder] if folder.is_dir() else []
    while left:
        here = left.pop()
        if (real := here.resolve()) in seen or real in above:
            continue
        seen.add(real)
        for entry in sorted(here.iterdir(), reverse=True):
            if _is_picture(entry):
                found.append(entry)
            elif entry.is_dir() and not entry.name.startswith("."):
                left.append(entry)
    return sorted(found, key=lambda file: (str(file.parent), file.name))


def _is_picture(path: Path) -> bool:
    """Whether a folder's file is one of `FORMATS`, by its name; desktops' hidden files are none."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    return kind in FORMATS and not path.name.startswith(".") and path.is_file()


def _opened(file: Path | str | Embedded) -> Image.Image:
    if not isinstance(file, Embedded):
        if Path(file).exists() and not Path(file).is_file():
            raise ValueError("not a file")  # A pipe would be waited for.
        return Image.open(file)
    if file.data is None:
        raise ValueError("no picture there")
    return Image.open(io.BytesIO(file.data))


@contextmanager
def _room_for(picture: Image.Image) -> Iterator[None]:
    width, height = picture.size
    with _large if width * height > LARGE_PIXELS else nullcontext():
        yield


_large = threading.Lock()


def _draft(picture: Image.Image, spec: InputSpec) -> None:
    """Let a JPEG be decoded no larger than the model needs it."""
    short, long = sorted(picture.size)
    if long > MOST_SIDES * short:
        raise ValueError(f"too long and thin, {long} x {short} pixels")
    side = DRAFT_GAP * _resized_px(spec)
    picture.draft(None, (side, side))


def _resized_px(spec: InputSpec) -> int:
    return math.floor(spec.size_px / spec.crop_pct)


def _plain(picture: Image.Image, spec: InputSpec) -> Image.Image:
    """Decode a picture: 8 bits, grey or RGB as the model wants it, upright, on white."""
    picture.load()  # Of a TIFF that turns it, and of a PNG the tags may stand behind the pixels.
    turn = _turn(picture)
    if picture.mode.startswith(("I", "F")):
        picture = _in_8_bits(picture)
    if picture.has_transparency_data:
        picture = _on_white(picture)
    if picture.mode == "LAB":
        picture = picture.convert("RGB")
    picture = picture.convert(_mode(spec))
    least = -(-max(picture.size) // _resized_px(spec))
    if spec.crop_mode == "border" and min(picture.size) < least:
        # The short side keeps a pixel when the long one fits.
        picture = picture.resize([max(length, least) for length in picture.size])
    return picture if turn is None else picture.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        # Other tags decide nothing, however odd they are.
        return UPRIGHT.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # Of whatever reads them.
        return None


def _on_white(picture: Image.Image) -> Image.Image:
    page = Image.new("RGB", picture.size, "white")
    for top in range(0, picture.height, STRIP_PX):
        strip = (0, top, picture.width, min(top + STRIP_PX, picture.height))
        layer = picture.crop(strip).convert("RGBA")
        page.paste(layer, strip, layer)
    return page


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Map whole numbers of 16 bits, or numbers from 0 to 1, to 0 to 255.

    What a larger number means no file says, and a scale of each picture's own would make unlike
    pictures alike.
    """
    values, transparent = np.asarray(picture), picture.info.get("transparency")
    high = 1 if picture.mode == "F" else 2**16 - 1
    if not (values.min() >= 0 and values.max() <= high):
        raise ValueError(f"has values outside 0 to {high}")
    grey = Image.fromarray(np.rint(values * np.float32(255 / high)).astype(np.uint8))
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, np.uint8(0), np.uint8(255))
        grey.putalpha(Image.fromarray(opaque))
    return grey
