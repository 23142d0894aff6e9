"""Pictures are read as timm's evaluation transform has them, whatever the file holds."""

from __future__ import annotations

import functools
import io
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from mfd_flower.data import pictures
from mfd_flower.data.pictures import ORIENTATION, Embedded, hide_progress, read_pictures
from mfd_flower.data.samples import InputSpec, prepared
from mfd_flower.models import input_spec
from mfd_flower.models.arch import new_fm_tiny

PLAIN = InputSpec(8, 3, (0.5,) * 3, (0.5,) * 3)
"""Of pictures of 8 x 8 pixels nothing is cut or resized."""
GREY = InputSpec(8, 1, (0.5,), (0.5,))
BEST = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return smooth colours with an edge and some noise, as a photo has them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(256, size=(height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(smooth) + rng.normal(0, 8, (height, width, 3))
    values[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 30)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def as_file(picture: Image.Image, kind: str, **keywords: object) -> Embedded:
    file = io.BytesIO()
    picture.save(file, kind, **keywords)
    return Embedded(kind, file.getvalue())


def read_one(file: Embedded | Path, spec: InputSpec = PLAIN, crop_mode: str = "") -> NDArray:
    (pixels,), unreadable = read_pictures([file], spec, crop_mode)
    assert not unreadable
    return pixels


@functools.cache
def model_of(name: str) -> nn.Module:
    """Return a model of timm's, or one that wants nothing as others want it."""
    if name != "own":
        return timm.create_model(name, num_classes=0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=60, patch_size=12, num_classes=0)
    config = {"input_size": (3, 60, 60), "mean": (0.1, 0.5, 0.9), "std": (0.3, 0.2, 0.1)}
    config |= {"interpolation": "bilinear", "crop_pct": 0.7, "crop_mode": "squash"}
    model.pretrained_cfg = config
    return model


@pytest.mark.parametrize("crop_mode", ["", "center", "squash", "border"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "own"])
def test_a_png_is_seen_as_timm_shows_it(name: str, crop_mode: str, tmp_path: Path) -> None:
    model = model_of(name)
    spec = input_spec(model)
    theirs = resolve_model_data_config(model, {"crop_mode": crop_mode or None})
    transform = create_transform(**theirs, is_training=False)
    for number, size in enumerate([(90, 60), (300, 517), (224, 224), (1100, 700)]):
        file = tmp_path / f"{number}.png"
        scene(*size, number).save(file)
        pixels, _ = read_pictures([file], spec, crop_mode)
        found = prepared(pixels, np.zeros(1, np.int64), spec).inputs[0]
        assert found.equal(transform(Image.open(file))), size


@pytest.mark.parametrize("size", [(300, 260), (1200, 1600), (3000, 2000)])
def test_a_jpeg_is_decoded_smaller_and_looks_the_same(size: tuple[int, int]) -> None:
    spec = InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)
    file = as_file(scene(*size), "JPEG", quality=90)
    assert file.data
    transform = create_transform(224, interpolation="bicubic", crop_pct=0.9, normalize=False)
    whole = np.asarray(transform(Image.open(io.BytesIO(file.data)))).transpose(1, 2, 0)
    difference = np.abs(read_one(file, spec).astype(int) - whole)
    # In steps of 256; within half a step on average.
    assert difference.mean() < 0.7
    assert difference.max() <= 12
    if min(size) < 2 * 2 * 248:
        assert difference.max() == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_orientation_shows_the_same_picture(kind: str) -> None:
    upright = scene(48, 32)
    spec = replace(PLAIN, size_px=32, crop_mode="squash")
    how = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    expected = read_one(as_file(upright, "PNG"), spec).astype(int)
    for orientation, turned in how.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = as_file(upright.transpose(turned), kind, exif=exif, **BEST.get(kind, {}))
        assert np.abs(read_one(file, spec) - expected).max() <= (8 if kind == "JPEG" else 0)


def test_pictures_of_every_mode_show_their_colours() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for mode in ("P", "RGBA", "RGB"):
        assert read_one(as_file(red.convert(mode), "PNG"))[4, 4].tolist() == [255, 0, 0]
    for mode, kind in (("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF")):
        found = read_one(as_file(red.convert(mode), kind))[4, 4]
        assert np.abs(found - np.array([255, 0, 0])).max() <= 3, (mode, kind, found)
    checks = Image.fromarray(np.indices((8, 8)).sum(0) % 2 == 1)
    for mode in ("1", "L", "LA"):
        found = read_one(as_file(checks.convert(mode), "PNG"))
        assert found[0, :2].tolist() == [[0] * 3, [255] * 3]
    assert read_one(as_file(scene(8, 8), "PNG"), GREY).tolist() == (
        np.asarray(scene(8, 8).convert("L"))[..., None].tolist()
    )


def test_what_is_transparent_is_white() -> None:
    shown = np.zeros((8, 8), np.uint8)
    shown[:, 4:] = 255
    clear = Image.new("RGBA", (8, 8), (9, 9, 9))
    clear.putalpha(Image.fromarray(shown))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    coloured = Image.new("RGB", (8, 8), (9, 9, 9))
    coloured.paste((1, 2, 3), (0, 0, 4, 8))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.paste(0, (0, 0, 4, 8))
    files = [
        as_file(clear, "PNG"),
        as_file(clear.convert("LA"), "PNG"),
        as_file(coloured, "PNG", transparency=(1, 2, 3)),
        as_file(palette, "PNG", transparency=0),
        as_file(palette, "GIF", transparency=0),
    ]
    for spec in (PLAIN, GREY):
        for file in files:
            found = read_one(file, spec)
            assert set(found[:, :4].ravel().tolist()) == {255}, file
            assert set(found[:, 4:].ravel().tolist()) == {9}, file
        assert set(read_one(as_file(half, "PNG"), spec).ravel().tolist()) == {127}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    """Clipped at 255 they would be white all over."""
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for spec in (PLAIN, GREY):
        found = read_one(as_file(Image.fromarray(values), kind), spec)[..., 0]
        assert np.abs(found - values / 257).max() <= 0.5


def test_floats_are_read_from_0_to_1() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    found = read_one(as_file(Image.fromarray(values), "TIFF"))[..., 0]
    assert np.abs(found - values * 255).max() <= 0.5
    _, (bad,) = read_pictures([as_file(Image.fromarray(values * 9), "TIFF")], PLAIN)
    assert bad.reason == "has values outside 0 to 1"


def test_what_cannot_be_read_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    jpeg, png = (as_file(scene(64, 64), kind).data for kind in ("JPEG", "PNG"))
    assert jpeg
    assert png
    contents = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "text.png": b"not a picture",
        "empty.png": b"",
        "bomb.png": as_file(Image.new("L", (101, 101)), "PNG").data,
        "thin.png": as_file(Image.new("L", (4000, 1)), "PNG").data,
        "good.png": png,
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data or b"")
    files = [
        *(tmp_path / name for name in contents),
        tmp_path / "absent.png",
        Embedded("row 9", None),
    ]
    pixels, unreadable = read_pictures(files, replace(PLAIN, size_px=224))
    assert len(pixels) == 1
    assert [bad.index for bad in unreadable] == [0, 1, 2, 3, 4, 5, 7, 8]
    words = (
        "truncated|truncated|identify|identify|exceeds limit|too long and thin|No such|no picture"
    )
    for bad, word in zip(unreadable, words.split("|"), strict=True):
        assert word in bad.reason
        assert "\n" not in str(bad)
    assert str(unreadable[-1]) == "row 9 (no picture there)"


@given(readable=st.lists(st.booleans(), max_size=12))
@settings(max_examples=25)
def test_what_is_read_stays_in_order(readable: list[bool]) -> None:
    files = [
        as_file(Image.new("L", (8, 8), 20 * number), "PNG") if good else Embedded("bad", b"")
        for number, good in enumerate(readable)
    ]
    pixels, unreadable = read_pictures(files, GREY)
    assert pixels[:, 0, 0, 0].tolist() == [20 * n for n, good in enumerate(readable) if good]
    assert [bad.index for bad in unreadable] == [n for n, g in enumerate(readable) if not g]


def test_a_model_without_a_training_of_its_own_sees_the_whole_picture() -> None:
    spec = input_spec(new_fm_tiny())
    assert (spec.size_px, spec.channels, spec.crop_pct) == (28, 1, 1.0)


def test_progress_can_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: list[bool | None] = []

    def bar(found: Any, *given: Any, disable: bool | None, **keywords: Any) -> Any:
        hidden.append(disable)
        return found

    monkeypatch.setattr(pictures, "tqdm", bar)
    monkeypatch.setattr(pictures, "_hidden", False)
    read_pictures([as_file(scene(8, 8), "PNG")], PLAIN)
    hide_progress()
    read_pictures([as_file(scene(8, 8), "PNG")], PLAIN)
    assert hidden == [None, True]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_upright_whatever_else_its_tags_say(orientation: int, kind: str) -> None:
    picture, exif = scene(8, 8), Image.Exif()
    exif[ORIENTATION] = orientation
    plain = as_file(picture, kind, exif=exif, **BEST.get(kind, {}))
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(plain.data or b"")))
    if kind != "TIFF":
        plain = as_file(picture, kind, exif=odd_exif(orientation), **BEST.get(kind, {}))
    assert np.array_equal(read_one(plain), np.asarray(shown.convert("RGB")))


def odd_exif(orientation: int) -> bytes:
    """Return two tags: an orientation, and a resolution that is a text."""
    tags = struct.pack("<HHIHxx", ORIENTATION, 3, 1, orientation)
    tags += struct.pack("<HHI4s", 0x011A, 2, 4, b"abc")
    return b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 0)


def test_other_modes_keep_what_they_show() -> None:
    lab = scene(8, 8).convert("LAB")
    for spec in (PLAIN, GREY):
        read_one(as_file(lab, "TIFF"), spec)
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    seen = read_one(as_file(Image.fromarray(values), "PNG", transparency=int(values[3, 3])), GREY)
    opaque = read_one(as_file(Image.fromarray(values), "PNG"), GREY)
    assert seen[3, 3] == 255 != opaque[3, 3]
    opaque[3, 3] = 255
    assert np.array_equal(seen, opaque)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_model_of_any_channels_sees_pictures(channels: int, crop_mode: str) -> None:
    spec = InputSpec(8, channels, (0.5,) * channels, (0.5,) * channels, crop_mode=crop_mode)
    pixels, unreadable = read_pictures([as_file(scene(16, 8), "PNG")], spec)
    assert not unreadable
    assert prepared(pixels, np.zeros(1, np.int64), spec).inputs[:].shape == (1, channels, 8, 8)


def test_colour_is_the_same_grey_from_a_file_and_from_memory() -> None:
    picture = scene(8, 8)
    labels = np.zeros(1, np.int64)
    from_memory = prepared(np.asarray(picture)[None], labels, GREY).inputs[:]
    from_file = prepared(read_one(as_file(picture, "PNG"), GREY)[None], labels, GREY).inputs[:]
    assert (from_memory - from_file).abs().max() <= 1.01 * 2 / 255


def test_large_pictures_are_decoded_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most, lock = [0], [0], threading.Lock()
    plain = pictures._plain

    def watched(picture: Image.Image, spec: InputSpec) -> Image.Image:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        try:
            return plain(picture, spec)
        finally:
            with lock:
                under_way[0] -= 1

    monkeypatch.setattr(pictures, "LARGE_PIXELS", 100)
    monkeypatch.setattr(pictures, "cpu_count", lambda: 8)
    monkeypatch.setattr(pictures, "_plain", watched)
    read_pictures([as_file(scene(300, 300), "PNG") for _ in range(24)], PLAIN)
    assert most == [1]


def test_a_jpeg_is_as_large_as_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of any camera are decoded side by side."""

    class Refuses:
        def __enter__(self) -> None:
            raise AssertionError("waits for the others")

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(pictures, "LARGE_PIXELS", 5_000)
    monkeypatch.setattr(pictures, "_large", Refuses())
    read_one(as_file(scene(300, 300), "JPEG"))
    _, (refused,) = read_pictures([as_file(scene(300, 300), "PNG")], PLAIN)
    assert "waits for the others" in refused.reason
