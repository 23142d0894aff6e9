"""What each node holds, as tensors ready for the backbone; made once a process and shared."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.config import DataConfig
from mfd_flower.data.partitions import label_counts, partition_indices, split_indices
from mfd_flower.data.sets import ImageSet, load_set


@dataclass(frozen=True, eq=False)
class Samples:
    """A shard of the data.

    Attributes
    ----------
    inputs : Tensor
        Images ``(samples, channels, height, width)``, normalised, or what a frozen part of the
        model made of them, ``(samples, ...)``.
    labels : Tensor
        int64 ``(samples,)``.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class InputSpec:
    """What a backbone expects: side in pixels, channels, normalisation."""

    size_px: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Federation:
    """One data set dealt out to nodes, and the test set that none of them holds.

    Attributes
    ----------
    images : ImageSet
        The whole set.
    shares : list of ndarray
        For each node, indices into `images`.
    test : ndarray
        Indices of the held-out samples.
    """

    images: ImageSet
    shares: list[NDArray[np.int64]]
    test: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Classes of the set."""
        return len(self.images.classes)

    def label_counts(self, node: int) -> NDArray[np.int64]:
        """Count the samples of each class that `node` holds, ``(num_classes,)``."""
        return label_counts(self.images.labels[self.shares[node]], self.num_classes)

    def samples(self, indices: NDArray[np.int64], spec: InputSpec) -> Samples:
        """Prepare the images at `indices` for a backbone."""
        return self.prepare(self.images.images[indices], self.images.labels[indices], spec)

    @staticmethod
    def prepare(images: NDArray[np.uint8], labels: NDArray[np.int64], spec: InputSpec) -> Samples:
        """Scale raw images ``(samples, height, width, channels)`` to what a backbone expects."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[1] != spec.channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, spec.channels, -1, -1)
        if pixels.shape[-2:] != (spec.size_px, spec.size_px):
            pixels = F.interpolate(
                pixels, (spec.size_px, spec.size_px), mode="bilinear", antialias=True
            )
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
        inputs = ((pixels - mean) / std).contiguous()
        return Samples(inputs, torch.from_numpy(labels))


@functools.lru_cache(maxsize=4)
def _load_set_once(name: str, path: str) -> ImageSet:
    return load_set(name, path)


@functools.lru_cache(maxsize=32)
def load_federation(config: DataConfig, seed: int) -> Federation:
    """Load the set, hold out the test samples, deal the rest to the nodes.

    Every node of a run calls this with the same arguments and takes only its own share: a
    simulation of nodes that each have their own disk.
    """
    images = _load_set_once(config.name, config.path)
    train, test = split_indices(len(images.labels), config, seed)
    shares = partition_indices(images.labels[train], len(images.classes), config, seed)
    return Federation(images, [train[share] for share in shares], test)
