"""A contact sheet: pictures in rows, each with what was predicted under it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mfd_flower.checks import ConfigError
from mfd_flower.files import write_bytes
from mfd_flower.models.predict import Prediction

CELL_PX, GAP_PX, LINE_PX = 160, 8, 15
MOST_PICTURES = 400


def check_room(pictures: int) -> None:
    """Raise ConfigError if a sheet has no room for so many pictures."""
    if pictures > MOST_PICTURES:
        raise ConfigError("--sheet", pictures, f"has room for {MOST_PICTURES} pictures")


def write_sheet(path: Path, found: Sequence[Prediction]) -> None:
    """Write a PNG of up to 400 pictures; ConfigError if there are more, or it cannot be written."""
    check_room(len(found))
    columns = math.ceil(math.sqrt(len(found)))
    lines = 1 + max((len(each.labels) for each in found), default=1)
    width, height = CELL_PX + GAP_PX, CELL_PX + GAP_PX + lines * LINE_PX
    rows = math.ceil(len(found) / columns)
    page = Image.new("RGB", (columns * width + GAP_PX, rows * height + GAP_PX), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(findfont("DejaVu Sans"), 12)
    for index, each in enumerate(found):
        row, column = divmod(index, columns)
        left, top = GAP_PX + column * width, GAP_PX + row * height
        if not each.error:
            picture = _small(Path(each.picture))
            page.paste(picture, (left + (CELL_PX - picture.width) // 2, top))
        pairs = zip(each.labels, each.probabilities, strict=True)
        told = [f"{label}  {share:.0%}" for label, share in pairs] or ["not readable"]
        for line, text in enumerate([*told, Path(each.picture).name]):
            draw.text((left, top + CELL_PX + line * LINE_PX), _cut(text, font), "black", font)
    content = io.BytesIO()
    page.save(content, "PNG")
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise ConfigError("--sheet", str(path), f"not writable ({error.strerror})") from error


def _small(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        picture.draft("RGB", (2 * CELL_PX, 2 * CELL_PX))
        upright = ImageOps.exif_transpose(picture).convert("RGBA")
    upright.thumbnail((CELL_PX, CELL_PX))
    page = Image.new("RGB", upright.size, "white")
    page.paste(upright, mask=upright)
    return page


def _cut(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Return as much of a text as a cell has room for, on one line."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[:CELL_PX])
    while font.getlength(text) > CELL_PX:
        text = text[:-1]
    return text
