"""Decoded picture sets: once a process, and once for all processes that share a folder.

The command that starts a comparison decodes its pictures to check them; the runs' processes map
what it made instead of decoding them again.
"""

from __future__ import annotations

import hashlib
import json
import threading
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


class Key(NamedTuple):
    """What decides what is decoded: settings of `DataConfig`, and what the model expects."""

    name: str
    path: str
    spec: InputSpec
    strict: bool

    @property
    def file(self) -> str:
        """Name of the file for it."""
        told = dump_json([self.name, self.path, asdict(self.spec), self.strict])
        return f"pictures-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


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
            if folder is not None and not _pixels_of(folder, key).exists():
                _write(folder, key, found)


def decoded_once(pictures: PictureSet, key: Key) -> ImageSet:
    """Return the pictures that can be read, for a model; the sets that came last are kept."""
    with _one_at_a_time:
        if key not in _kept:
            while len(_kept) >= KEPT_SETS:
                del _kept[next(iter(_kept))]
            if _folder is None:
                _kept[key] = pictures.decoded(key.spec, key.strict)
            else:
                _kept[key] = _shared(_folder, pictures, key)
        return _kept[key]


def _shared(folder: Path, pictures: PictureSet, key: Key) -> ImageSet:
    file = _pixels_of(folder, key)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            _write(folder, key, pictures.decoded(key.spec, key.strict))
    told = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    return pictures.of(np.load(file, mmap_mode="r"), [Unreadable(*each) for each in told])


def _write(folder: Path, key: Key, found: ImageSet) -> None:
    file = _pixels_of(folder, key)
    told = [[each.index, each.file, each.reason] for each in found.unreadable]
    file.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    begun = file.with_suffix(".part")
    with begun.open("wb") as opened:
        np.save(opened, found.images)
    begun.rename(file)


def _pixels_of(folder: Path, key: Key) -> Path:
    return folder / f"{key.file}.npy"
