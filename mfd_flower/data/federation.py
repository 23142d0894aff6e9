"""What each node holds of an image set; made once a process and shared."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfd_flower.config import DataConfig
from mfd_flower.data.partitions import partition_indices, split_indices
from mfd_flower.data.samples import InputSpec, Samples, prepared
from mfd_flower.data.sets import ImageSet, load_set

_load_set_once = functools.lru_cache(maxsize=4)(load_set)


@dataclass(frozen=True, eq=False)
class Federation:
    """One data set dealt out to nodes, and the test set that none holds, as indices into it."""

    images: ImageSet
    shares: list[NDArray[np.int64]]
    test: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Classes of the set."""
        return len(self.images.classes)

    def label_counts(self, node: int) -> NDArray[np.int64]:
        """Count the samples of each class that `node` holds, ``(num_classes,)``."""
        return np.bincount(self.images.labels[self.shares[node]], minlength=self.num_classes)

    def samples(self, indices: NDArray[np.int64], spec: InputSpec) -> Samples:
        """Prepare the images at `indices` for a backbone."""
        return prepared(self.images.images[indices], self.images.labels[indices], spec)


@functools.lru_cache(maxsize=32)
def load_federation(config: DataConfig, seed: int) -> Federation:
    """Load the set, hold out the test samples, deal the rest to the nodes.

    Every node of a run calls this and takes only its own share, as from a disk of its own.
    """
    images = _load_set_once(config.name, config.path)
    train, test = split_indices(len(images.labels), config, seed)
    shares = partition_indices(images.labels[train], len(images.classes), config, seed)
    return Federation(images, [train[share] for share in shares], test)
