"""What each node holds of an image set; made once a process and shared."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.canonical_json import dump_json
from mfd_flower.checks import ConfigError, checked
from mfd_flower.config import DataConfig
from mfd_flower.data.decoded import Key, decoded_once
from mfd_flower.data.image_set import ImageSet, PictureSet, some, unreadable_line
from mfd_flower.data.partitions import (
    client_indices,
    hold_out,
    partition_indices,
    split_indices,
    task_indices,
)
from mfd_flower.data.samples import InputSpec, Samples, prepared
from mfd_flower.data.sets import THUMBNAIL, find_set
from mfd_flower.data.united import tasks_of
from mfd_flower.names import MAX_CLASSES

Part = int | Literal["test", "validation", "public"]
"""What a node trains on, the common test set, or what all nodes hold out."""


@dataclass(frozen=True, eq=False)
class Federation:
    """One data set dealt out to nodes, and the test set that none has, as indices into it."""

    images: ImageSet
    shares: list[NDArray[np.int64]]
    """What each node trains on."""
    held_out: list[NDArray[np.int64]]
    """What each node has besides, for validation."""
    test: NDArray[np.int64]
    spec: InputSpec = THUMBNAIL
    """How its images were brought to the backbone that it was loaded for."""
    clients: tuple[str, ...] = ()
    """What each node is called in the set, where that says who holds what."""
    public: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """What all nodes have besides, without labels."""

    @property
    def num_classes(self) -> int:
        """Classes of the set."""
        return len(self.images.classes)

    @property
    def holders(self) -> list[str]:
        """The nodes' addresses, with the names of their clients where they have some."""
        names = self.clients or [""] * len(self.shares)
        return [f"n{node} {name}".rstrip() for node, name in enumerate(names)]

    @property
    def notes(self) -> list[str]:
        """What whoever brings the data should know: a line each."""
        lines, unreadable = [], self.images.unreadable
        if unreadable:
            total = len(self.images.labels) + len(unreadable)
            lines.append(f"{unreadable_line(unreadable, total)}; left out")
        held = np.unique(self.images.labels[np.concatenate(self.shares)])
        absent = np.setdiff1d(np.arange(self.num_classes), held)
        if len(absent):
            names = some([self.images.classes[label] for label in absent])
            share = f"{self.test_label_counts()[absent].sum()} of {len(self.test)} test samples"
            lines.append(f"classes that no node trains on: {names} ({share})")
        return lines

    def label_counts(self, node: int) -> NDArray[np.int64]:
        """Count the samples of each class that `node` holds, ``(num_classes,)``."""
        return np.bincount(self.images.labels[self.shares[node]], minlength=self.num_classes)

    def task(self, node: int) -> str:
        """Return what the data of `node` are for, 8 hexadecimal digits; empty if for several tasks.

        A class belongs to the task in front of the first slash of its name, as ``tool/hammer``
        does; those without a slash are one task. The digits are of the names of all classes of the
        task that the set has, so that nodes with different classes of one task tell the same.
        """
        names = self.images.classes
        tasks = tasks_of(names)
        held = {tasks[label] for label in np.flatnonzero(self.label_counts(node))}
        if len(held) != 1:
            return ""
        own = [name for name, task in zip(names, tasks, strict=True) if task in held]
        return hashlib.sha256(dump_json(own).encode()).hexdigest()[:8]

    def part(self, part: Part) -> NDArray[np.int64]:
        """Return the indices of a part, `held_out` of all nodes together."""
        if part == "validation":
            return np.concatenate(self.held_out)
        if part == "public":
            return self.public
        return self.test if part == "test" else self.shares[part]

    def test_label_counts(self) -> NDArray[np.int64]:
        """Count the samples of each class in the test set, ``(num_classes,)``."""
        return np.bincount(self.images.labels[self.test], minlength=self.num_classes)

    def samples(self, indices: NDArray[np.int64], spec: InputSpec) -> Samples:
        """Prepare the images at `indices` for a backbone."""
        return prepared(self.images.images[indices], self.images.labels[indices], spec)


def load_federation(config: DataConfig, seed: int, spec: InputSpec = THUMBNAIL) -> Federation:
    """Load the set, hold out the test samples, deal the rest to the nodes.

    Every node of a run calls this and takes only its own share, as from a disk of its own. Picture
    files are decoded for a model of `spec`; who holds what does not depend on it.
    """
    seen = replace(spec, crop_mode=config.crop_mode or spec.crop_mode)
    key = Key(config.name, config.path, seen, config.strict, config.options)
    images = _images_once(key)
    shares, held_out, test, clients, public = _dealt_once(config, seed, key)
    spec = images.spec or spec.in_memory
    return Federation(images, shares, held_out, test, spec, clients, public)


@functools.lru_cache(maxsize=32)
def _dealt_once(
    config: DataConfig, seed: int, key: Key
) -> tuple[
    list[NDArray[np.int64]],
    list[NDArray[np.int64]],
    NDArray[np.int64],
    tuple[str, ...],
    NDArray[np.int64],
]:
    """Return what each node trains on and holds out, the test set, clients' names, the public."""
    images = _images_once(key)
    train, test, public = split_indices(images, config, seed)
    clients: tuple[str, ...] = ()
    if config.partition in ("by-client", "by-folder"):
        clients, dealt = client_indices(images, train, config)
    elif config.partition == "tasks":
        clients, dealt = task_indices(images, train, config)
    else:
        dealt = partition_indices(images.labels[train], len(images.classes), config, seed)
    pairs = [hold_out(train[share], config, seed, node) for node, share in enumerate(dealt)]
    return [kept for kept, _ in pairs], [out for _, out in pairs], test, clients, public


def _images_once(key: Key) -> ImageSet:
    return decoded_once(key, functools.partial(_found_once, key.name, key.path, key.options))


@functools.lru_cache(maxsize=4)
def _found_once(name: str, path: str, options: str) -> ImageSet | PictureSet:
    found = find_set(name, path, options)
    if not 2 <= (classes := len(found.classes)) <= MAX_CLASSES:
        accepted = f"has {classes} classes, accepted: 2 to {MAX_CLASSES}"
        raise ConfigError("data.name", name, accepted)
    for label in found.classes:
        checked("data.name: class", label, str)
    return found
