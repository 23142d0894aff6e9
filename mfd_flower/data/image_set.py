"""Labelled images: in memory, or as picture files that are still to be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError, one_line
from mfd_flower.data.pictures import Embedded, Unreadable, read_pictures
from mfd_flower.data.samples import InputSpec

NAMED = 5
"""Files that cannot be read, and classes, that a message names."""


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, in memory."""

    images: NDArray[np.uint8]
    """``(samples, height, width, channels)``."""
    labels: NDArray[np.int64]
    """``(samples,)``, values index `classes`."""
    classes: tuple[str, ...]
    client: NDArray[np.str_] | None = None
    """``(samples,)``: the name of who holds it, empty for nobody."""
    is_test: NDArray[np.bool_] | None = None
    """``(samples,)``: whether it belongs to the test set that came with the images."""
    unreadable: tuple[Unreadable, ...] = ()
    """Pictures that were left out."""
    spec: InputSpec | None = None
    """How picture files were decoded; None for a set in memory."""

    @property
    def is_sound(self) -> bool:
        """Whether types and shapes are these, and every label is a class."""
        return (
            isinstance(self.images, np.ndarray)
            and isinstance(self.labels, np.ndarray)
            and (self.images.dtype, self.images.ndim) == (np.uint8, 4)
            and (self.labels.dtype, self.labels.shape) == (np.int64, self.images.shape[:1])
            and set(np.unique(self.labels)) <= set(range(len(self.classes)))
            and all(
                part is None or _is(part, kind, self.labels.shape)
                for part, kind in ((self.client, "U"), (self.is_test, "b"))
            )
        )


def _is(part: object, kind: str, shape: tuple[int, ...]) -> bool:
    return isinstance(part, np.ndarray) and (part.dtype.kind, part.shape) == (kind, shape)


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Picture files with labels; the other fields are those of `ImageSet`."""

    files: Sequence[Path | Embedded]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    client: NDArray[np.str_] | None = None
    is_test: NDArray[np.bool_] | None = None

    def decoded(self, spec: InputSpec, strict: bool = False) -> ImageSet:
        """Decode all pictures for a model; what cannot be read is left out, or refused."""
        images, unreadable = read_pictures(self.files, spec)
        if unreadable and (strict or len(images) == 0):
            said = unreadable_line(unreadable, len(self.files))
            accepted = f"{said}; without it they are left out" if strict else said
            raise ConfigError("data.strict", strict, accepted)
        kept = np.ones(len(self.files), bool)
        kept[[picture.index for picture in unreadable]] = False
        return ImageSet(
            images,
            self.labels[kept],
            self.classes,
            None if self.client is None else self.client[kept],
            None if self.is_test is None else self.is_test[kept],
            tuple(unreadable),
            spec,
        )


def unreadable_line(unreadable: Sequence[Unreadable], total: int) -> str:
    """Say how many pictures cannot be read, and which."""
    return f"{len(unreadable)} of {total} pictures cannot be read: {some(unreadable)}"


def some(things: Sequence[object]) -> str:
    """Name the first few of many."""
    more = [f"and {len(things) - NAMED} more"] if len(things) > NAMED else []
    return one_line(", ".join([*map(str, things[:NAMED]), *more]))
