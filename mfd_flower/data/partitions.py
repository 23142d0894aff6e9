"""Who gets which images: the test set, each node's share, what a node holds out; by the seed alone.

flwr-datasets' partitioners deal the images out, or the set itself says who holds what.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig
from mfd_flower.data.image_set import ImageSet, some
from mfd_flower.data.labels import by_number
from mfd_flower.data.united import tasks_of

HOLD_OUT = 6
"""Purpose of the generator that draws what a node holds out."""


def split_indices(
    images: ImageSet, config: DataConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw the training pool, the held-out test set and the public set, indices into the whole set.

    Of a test set that came with the images at most `config.test_samples` are taken. The public set
    is of images that could have been trained on and are not.
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
    if len(test) == 0:
        raise ConfigError("data.name", config.name, "none of its test pictures can be read")
    wanted = config.train_samples or max(nodes, len(pool) - config.public_samples)
    if wanted > len(pool):
        accepted = f"at most {len(pool)}, {left_by}"
        raise ConfigError("data.train_samples", wanted, accepted)
    public = pool[wanted : wanted + config.public_samples]
    if len(public) < config.public_samples:
        accepted = f"at most {len(public)}, what {wanted} training samples leave of {config.name}"
        raise ConfigError("data.public_samples", config.public_samples, accepted)
    return pool[:wanted], test, public


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
    names = sorted(set(held_by.tolist()), key=by_number)
    if len(names) != config.nodes:
        accepted = f"must be {len(names)}, the clients among the training samples of {config.name}"
        raise ConfigError("data.nodes", config.nodes, accepted)
    kinds, place, counts = np.unique(held_by, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
    shares = dict(zip(kinds.tolist(), parts, strict=True))
    return tuple(names), [shares[name] for name in names]


def task_indices(
    images: ImageSet, train: NDArray[np.int64], config: DataConfig
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Give each node one task, as many nodes to each; returns the nodes' tasks, and their shares.

    A task's samples are dealt out evenly, in the order of `train`, which is shuffled.
    """
    tasks = np.array(tasks_of(images.classes))[images.labels[train]]
    names = sorted(set(tasks.tolist()))
    if config.nodes < len(names):
        accepted = f"at least {len(names)}, the tasks of {config.name}: {some(names)}"
        raise ConfigError("data.nodes", config.nodes, accepted)
    dealt: list[NDArray[np.int64]] = []
    held: list[str] = []
    for name, nodes in zip(names, np.array_split(np.arange(config.nodes), len(names)), strict=True):
        own = np.flatnonzero(tasks == name)
        if len(own) < len(nodes):
            accepted = f"at least one sample of {name} for each of its {len(nodes)} nodes"
            raise ConfigError("data.train_samples", config.train_samples, accepted)
        dealt += np.array_split(own, len(nodes))
        held += [name] * len(nodes)
    return tuple(held), [np.sort(share) for share in dealt]


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
