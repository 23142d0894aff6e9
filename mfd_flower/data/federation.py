"""What each node holds of an image set; made once a process and shared.

flwr-datasets' partitioners deal the images out, the same way for one seed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig
from mfd_flower.data.image_set import ImageSet, PictureSet, some, unreadable_line
from mfd_flower.data.samples import InputSpec, Samples, prepared
from mfd_flower.data.sets import THUMBNAIL, find_set

Part = int | Literal["test", "validation"]
"""What a node trains on, the common test set, or what all nodes hold out."""
HOLD_OUT = 6
"""Purpose of the generator that draws what a node holds out."""
_find_set_once = functools.lru_cache(maxsize=4)(find_set)


@dataclass(frozen=True, eq=False)
class Federation:
    """One data set dealt out to nodes, and the test set that none has, as indices into it."""

    images: ImageSet
    shares: list[NDArray[np.int64]]
    """What each node trains on."""
    held_out: list[NDArray[np.int64]]
    """What each node has besides, for validation."""
    test: NDArray[np.int64]
    clients: tuple[str, ...] = ()
    """What each node is called in the set, where that says who holds what."""

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
            lines.append(f"classes on no node: {names} ({share})")
        return lines

    def label_counts(self, node: int) -> NDArray[np.int64]:
        """Count the samples of each class that `node` holds, ``(num_classes,)``."""
        return np.bincount(self.images.labels[self.shares[node]], minlength=self.num_classes)

    def part(self, part: Part) -> NDArray[np.int64]:
        """Return the indices of a part, `held_out` of all nodes together."""
        if part == "validation":
            return np.concatenate(self.held_out)
        return self.test if part == "test" else self.shares[part]

    def test_label_counts(self) -> NDArray[np.int64]:
        """Count the samples of each class in the test set, ``(num_classes,)``."""
        return np.bincount(self.images.labels[self.test], minlength=self.num_classes)

    def samples(self, indices: NDArray[np.int64], spec: InputSpec) -> Samples:
        """Prepare the images at `indices` for a backbone."""
        return prepared(self.images.images[indices], self.images.labels[indices], spec)


@functools.lru_cache(maxsize=32)
def load_federation(config: DataConfig, seed: int, spec: InputSpec = THUMBNAIL) -> Federation:
    """Load the set, hold out the test samples, deal the rest to the nodes.

    Every node of a run calls this and takes only its own share, as from a disk of its own. Picture
    files are decoded for a model of `spec`; who holds what does not depend on it.
    """
    seen = replace(spec, crop_mode=config.crop_mode or spec.crop_mode)
    images = _images_once(config.name, config.path, seen, config.strict)
    train, test = split_indices(images, config, seed)
    clients: tuple[str, ...] = ()
    if config.partition in ("by-client", "by-folder"):
        clients, dealt = client_indices(images, train, config)
    else:
        dealt = partition_indices(images.labels[train], len(images.classes), config, seed)
    pairs = [hold_out(train[share], config, seed, node) for node, share in enumerate(dealt)]
    shares, held_out = [kept for kept, _ in pairs], [out for _, out in pairs]
    return Federation(images, shares, held_out, test, clients)


def _images_once(name: str, path: str, spec: InputSpec, strict: bool) -> ImageSet:
    found = _find_set_once(name, path)
    return found if isinstance(found, ImageSet) else _decoded_once(found, spec, strict)


@functools.lru_cache(maxsize=2)
def _decoded_once(pictures: PictureSet, spec: InputSpec, strict: bool) -> ImageSet:
    return pictures.decoded(spec, strict)


def split_indices(
    images: ImageSet, config: DataConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the training pool and the held-out test set, indices into the whole set.

    Of a test set that came with the images at most `config.test_samples` are taken.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(images.labels))
    held_out, nodes = config.test_samples, config.nodes
    if images.is_test is None:
        pool, test = order[held_out:], order[:held_out]
        left_by = f"what {held_out} test samples leave of {config.name}"
    else:
        pool, test = order[~images.is_test[order]], order[images.is_test[order]][:held_out]
        left_by = f"the training samples of {config.name}"
    if images.is_test is None and len(pool) < nodes:
        accepted = f"must leave a sample for each of {nodes} nodes, {config.name} has {len(order)}"
        raise ConfigError("data.test_samples", held_out, accepted)
    wanted = config.train_samples or len(pool)
    if wanted > len(pool):
        accepted = f"at most {len(pool)}, {left_by}"
        raise ConfigError("data.train_samples", wanted, accepted)
    return pool[:wanted], test


def client_indices(
    images: ImageSet, train: NDArray[np.int64], config: DataConfig
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Give each client of the set a node; returns their names and indices into `train`."""
    if images.client is None:
        accepted = f"{config.name} does not say who holds what, by a column `client` or sub-folders"
        raise ConfigError("data.partition", config.partition, accepted)
    held_by = images.client[train]
    if nobodys := int(np.sum(held_by == "")):
        accepted = f"{nobodys} training samples of {config.name} have no client"
        raise ConfigError("data.partition", config.partition, accepted)
    # Numbers in the order of numbers, names in that of the alphabet.
    names = sorted(set(held_by.tolist()), key=lambda n: (int(n) if n.isdecimal() else inf, n))
    if len(names) != config.nodes:
        accepted = f"must be {len(names)}, the clients among the training samples of {config.name}"
        raise ConfigError("data.nodes", config.nodes, accepted)
    return tuple(names), [np.flatnonzero(held_by == name) for name in names]


def hold_out(
    share: NDArray[np.int64], config: DataConfig, seed: int, node: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split what a node has into what it trains on, at least one sample, and what it holds out."""
    count = min(round(config.validation * len(share)), len(share) - 1)
    out = np.zeros(len(share), dtype=bool)
    order = np.random.default_rng([seed, node, 0, HOLD_OUT]).permutation(len(share))
    out[order[:count]] = True
    return share[~out], share[out]


def partition_indices(
    labels: NDArray[np.int64], num_classes: int, config: DataConfig, seed: int
) -> list[NDArray[np.int64]]:
    """Assign every training sample to one node; same seed, same partition.

    Returns for each node the indices into `labels` ``(samples,)`` of the training pool, ascending.
    Raises ConfigError if there are more nodes than samples, more classes asked for than exist, or
    the partition cannot give every node a sample.
    """
    import datasets

    if config.nodes > len(labels):
        raise ConfigError("data.nodes", config.nodes, f"at most {len(labels)}, one a sample")
    if config.partition == "classes" and config.classes > num_classes:
        raise ConfigError("data.classes", config.classes, f"{config.name} has {num_classes}")
    setting, partitioner = _partitioner(config, seed)
    datasets.disable_progress_bars()
    columns = {"label": labels, "index": np.arange(len(labels))}
    partitioner.dataset = datasets.Dataset.from_dict(columns)

    def refusal(reason: str) -> ConfigError:
        remedy = f"(seed {seed}); take fewer nodes, more samples, or a milder partition"
        return ConfigError(f"data.{setting}", getattr(config, setting), f"{reason} {remedy}")

    shares = []
    for node in range(config.nodes):
        try:
            dealt = partitioner.load_partition(node)["index"]
        except ValueError as error:
            raise refusal(str(error).partition(". ")[0]) from error
        if len(dealt) == 0:
            raise refusal(f"leaves node n{node} of {config.nodes} without samples")
        shares.append(np.sort(np.asarray(dealt, dtype=np.int64)))
    return shares


def _partitioner(config: DataConfig, seed: int) -> tuple[str, Any]:
    """Return the setting that decides a partition, and what deals by it."""
    from flwr_datasets import partitioner

    if config.partition == "iid":
        # It deals in the order of the pool, which `split_indices` has already shuffled.
        return "nodes", partitioner.IidPartitioner(num_partitions=config.nodes)
    common = {"num_partitions": config.nodes, "partition_by": "label", "seed": seed}
    if config.partition == "dirichlet":
        dirichlet = partitioner.DirichletPartitioner
        return "alpha", dirichlet(**common, alpha=config.alpha, min_partition_size=0)
    count, mode = config.classes, "first-deterministic"
    return "classes", partitioner.PathologicalPartitioner(
        **common, num_classes_per_partition=count, class_assignment_mode=mode
    )
