"""Several sets as one: domains whose classes have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mfd_flower.data.image_set import ImageSet

BILINEAR = Image.Resampling.BILINEAR
DRAWN = 0
"""Seed of what is taken of larger sets: all runs have the same images."""


def united(sets: Mapping[str, ImageSet]) -> ImageSet:
    """Return the images of all sets, as many of each, with classes called ``set/class``.

    All are brought to the largest side and, if any has colours, to three channels. Of larger sets
    as many are drawn as the smallest has.
    """
    count = min(len(found.labels) for found in sets.values())
    side_px = max(max(found.images.shape[1:3]) for found in sets.values())
    channels = max(found.images.shape[3] for found in sets.values())
    images, labels, classes = [], [], list[str]()
    for name, found in sets.items():
        pick = np.random.default_rng(DRAWN).permutation(len(found.labels))[:count]
        images.append(_alike(found.images[pick], side_px, channels))
        labels.append(found.labels[pick] + len(classes))
        classes += [f"{name}/{label}" for label in found.classes]
    return ImageSet(np.concatenate(images), np.concatenate(labels), tuple(classes))


def tasks_of(classes: Sequence[str]) -> list[str]:
    """Return the task of each class: what stands in front of the first slash of its name.

    Classes without a slash are one task, without a name.
    """
    return [name.partition("/")[0] if "/" in name else "" for name in classes]


def _alike(images: NDArray[np.uint8], side_px: int, channels: int) -> NDArray[np.uint8]:
    if images.shape[1:3] != (side_px, side_px):
        shape, own = (side_px, side_px), images.shape[3]
        flat = images[..., 0] if own == 1 else images
        resized = [np.asarray(Image.fromarray(each).resize(shape, BILINEAR)) for each in flat]
        images = np.stack(resized).reshape(len(images), *shape, own)
    return images if images.shape[3] == channels else images.repeat(channels, axis=3)
