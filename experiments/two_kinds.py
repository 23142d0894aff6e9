"""MNIST-5k as ten people might have it whose pictures differ where their labels do not.

For `data.name = "experiments.two_kinds:turned"` and the like, with `partition = "by-client"`: the
first clients have the digits as they are, the others turned by a quarter or in negative. All have
the same mix of labels, and so has the test set, in which each picture is there in both kinds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mfd_flower.data import ImageSet, load_set

CLIENTS = 10
TEST = 500
"""Digits of the test set; each is in it twice."""


def turned(path: str) -> ImageSet:
    """Half of the clients have digits that are turned by 90 degrees."""
    return _two_kinds(_quarter_turn, 5)


def negative(path: str) -> ImageSet:
    """Half of the clients have white paper and black ink."""
    return _two_kinds(np.invert, 5)


def few_turned(path: str) -> ImageSet:
    """Two of ten clients have digits that are turned by 90 degrees."""
    return _two_kinds(_quarter_turn, 2)


def _quarter_turn(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.rot90(images, axes=(1, 2))


def _two_kinds(change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], others: int) -> ImageSet:
    """Return the set in which so many clients' pictures are changed."""
    whole = load_set("mnist5k")
    order = np.random.default_rng(0).permutation(len(whole.labels))
    test, train = order[:TEST], order[TEST:]
    # Sorted by label and dealt in turn: every client has the same mix.
    train = train[np.argsort(whole.labels[train], kind="stable")]
    client = np.arange(len(train)) % CLIENTS
    changed = change(whole.images)
    kept = client < CLIENTS - others
    images = np.where(kept[:, None, None, None], whole.images[train], changed[train])
    names = np.array([f"c{number}" for number in range(CLIENTS)])
    return ImageSet(
        np.concatenate([images, whole.images[test], changed[test]]),
        np.concatenate([whole.labels[train], whole.labels[test], whole.labels[test]]),
        whole.classes,
        np.concatenate([names[client], np.full(2 * TEST, "")]),
        np.arange(len(train) + 2 * TEST) >= len(train),
    )
