"""Five of MNIST-5k's digits, of which the whole tuning sees some, and the test all.

For `data.name = "experiments.few_classes:three"` and the like. There are 400 training images
whatever the number of classes, and 40 of each of the five in the test set.
"""

from __future__ import annotations

import numpy as np

from mfd_flower.data import ImageSet, load_set

CLASSES, TRAIN, TEST_A_CLASS = 5, 400, 40


def one(path: str) -> ImageSet:
    """Train on one class."""
    return _of(1)


def two(path: str) -> ImageSet:
    """Train on two classes."""
    return _of(2)


def three(path: str) -> ImageSet:
    """Train on three classes."""
    return _of(3)


def four(path: str) -> ImageSet:
    """Train on four classes."""
    return _of(4)


def five(path: str) -> ImageSet:
    """Train on all five classes."""
    return _of(5)


def _of(seen: int) -> ImageSet:
    found = load_set("mnist5k")
    train, test = [], []
    for label in range(CLASSES):
        own = np.flatnonzero(found.labels == label)
        test.append(own[:TEST_A_CLASS])
        # What does not divide is dealt out to the first.
        share = TRAIN // seen + (label < TRAIN % seen)
        train.append(own[TEST_A_CLASS : TEST_A_CLASS + share] if label < seen else own[:0])
    chosen = np.concatenate([*train, *test])
    is_test = np.arange(len(chosen)) >= TRAIN
    return ImageSet(
        found.images[chosen], found.labels[chosen], found.classes[:CLASSES], is_test=is_test
    )
