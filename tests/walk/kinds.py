"""Federations of digits for ``data.name``: two kinds of pictures, or two tasks, a client a node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfd_flower.data import ImageSet, load_set

CLIENTS, SAMPLES, TEST = 6, 40, 40
"""Of the clients, each with so many samples, the second half is of the other kind."""


def negative(path: str) -> ImageSet:
    """All clients have the same labels, and half of them the negatives of digits."""
    whole = load_set("digits")
    places = np.concatenate([np.flatnonzero(whole.labels == label)[:28] for label in range(10)])
    # Four of each label for each client.
    train = np.concatenate([places[28 * label : 28 * label + 24] for label in range(10)])
    client = np.tile(np.arange(24) % CLIENTS, 10)
    test = np.concatenate([places[28 * label + 24 : 28 * (label + 1)] for label in range(10)])
    images = whole.images[np.concatenate([train, test])]
    other = np.concatenate([client >= CLIENTS // 2, np.arange(len(test)) % 2 == 1])
    images = np.where(other[:, None, None, None], 255 - images, images)
    return _dealt(whole, images, np.concatenate([train, test]), client, whole.classes)


def two_tasks(path: str) -> ImageSet:
    """Half of the clients have the digits below 5, the others the rest, of two tasks by name."""
    whole = load_set("digits")
    low, high = np.flatnonzero(whole.labels < 5), np.flatnonzero(whole.labels >= 5)
    half = CLIENTS // 2 * SAMPLES
    train = np.concatenate([low[:half], high[:half]])
    test = np.concatenate([low[half : half + TEST], high[half : half + TEST]])
    client = np.repeat(np.arange(CLIENTS), SAMPLES)
    picked = np.concatenate([train, test])
    names = tuple(f"{'low' if digit < 5 else 'high'}/{digit}" for digit in range(10))
    return _dealt(whole, whole.images[picked], picked, client, names)


def _dealt(
    whole: ImageSet,
    images: NDArray[np.uint8],
    picked: NDArray[np.int64],
    client: NDArray[np.int64],
    classes: tuple[str, ...],
) -> ImageSet:
    names = np.array([f"c{number}" for number in client] + [""] * (len(picked) - len(client)))
    is_test = np.arange(len(picked)) >= len(client)
    return ImageSet(images, whole.labels[picked], classes, names, is_test)
