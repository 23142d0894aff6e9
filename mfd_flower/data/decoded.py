"""Decoded picture sets: once a process, and once for all processes that share a folder.

The command that starts a comparison decodes its pictures to check them; the runs' processes take
what it made, pictures and labels together, whatever has become of the files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from mfd_flower.canonical_json import dump_json
from mfd_flower.data.image_set import ImageSet, PictureSet
from mfd_flower.data.pictures import Unreadable
from mfd_flower.data.samples import InputSpec

KEPT_SETS = 2
PIXELS, REST = "pixels.npy", "rest.npz"


class Key(NamedTuple):
    """What decides what is decoded, and how: settings of `DataConfig`, and the model's wishes."""

    name: str
    path: str
    spec: InputSpec
    strict: bool
    options: str = "{}"


_folder: Path | None = None
_kept: dict[Key, ImageSet] = {}
_one_at_a_time = threading.RLock()


def share_decoded(folder: Path | None) -> None:
    """Let this process keep decoded pictures in files of a folder, those that it has already too.

    With None it keeps them in memory again.
    """
    global _folder
    with _one_at_a_time:
        _folder = folder
        for key, found in _kept.items():
            if folder is not None:
                _write(_place(folder, key), found)


def decoded_once(key: Key, find: Callable[[], ImageSet | PictureSet]) -> ImageSet:
    """Return what `find` returns, its pictures decoded, by this process or another one.

    The decoded sets that came last are kept.
    """
    with _one_at_a_time:
        if key not in _kept:
            place = None if _folder is None else _place(_folder, key)
            if place is not None and place.exists():
                images = _read(place, key.spec)
            elif isinstance(found := find(), ImageSet):
                return found
            elif place is None:
                images = found.decoded(key.spec, key.strict)
            else:
                images = _shared(place, key, found)
            while len(_kept) >= KEPT_SETS:
                del _kept[next(iter(_kept))]
            _kept[key] = images
        return _kept[key]


def _shared(place: Path, key: Key, pictures: PictureSet) -> ImageSet:
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            _write(place, pictures.decoded(key.spec, key.strict))
    return _read(place, key.spec)


def _write(place: Path, found: ImageSet) -> None:
    begun = place.with_suffix(".part")
    shutil.rmtree(begun, ignore_errors=True)  # Of a process that was killed.
    begun.mkdir()
    np.save(begun / PIXELS, found.images)
    names = [each for each in ("client", "is_test") if getattr(found, each) is not None]
    unreadable = [[each.index, each.file, each.reason] for each in found.unreadable]
    np.savez(
        begun / REST,
        labels=found.labels,
        told=np.array(json.dumps([found.classes, unreadable])),
        **{name: getattr(found, name) for name in names},
    )
    begun.rename(place)


def _read(place: Path, spec: InputSpec) -> ImageSet:
    with np.load(place / REST) as rest:
        classes, unreadable = json.loads(str(rest["told"]))
        return ImageSet(
            np.load(place / PIXELS, mmap_mode="r"),
            rest["labels"],
            tuple(classes),
            rest.get("client"),
            rest.get("is_test"),
            tuple(Unreadable(*each) for each in unreadable),
            spec,
        )


@functools.lru_cache(maxsize=8)
def _place(folder: Path, key: Key) -> Path:
    told = dump_json([key.name, key.path, asdict(key.spec), key.strict])
    return folder / f"pictures-{hashlib.sha256(told.encode()).hexdigest()[:32]}"
