"""Deal an image set out to nodes with flwr-datasets' partitioners, the same way for one seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig


def label_counts(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count the samples of each class, ``(num_classes,)``."""
    return np.bincount(labels, minlength=num_classes)


def split_indices(
    total: int, config: DataConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the held-out test set and the training pool, without overlap.

    Returns
    -------
    train, test : ndarray of int64
        Indices into the whole set.
    """
    order = np.random.default_rng([seed, 0]).permutation(total)
    left = total - config.test_samples
    if left < config.nodes:
        raise ConfigError(
            "data.test_samples",
            config.test_samples,
            f"must leave a sample for each of {config.nodes} nodes, {config.name} has {total}",
        )
    wanted = config.train_samples or left
    if wanted > left:
        raise ConfigError(
            "data.train_samples",
            wanted,
            f"at most {left}, what {config.test_samples} test samples leave of {config.name}",
        )
    return order[config.test_samples : config.test_samples + wanted], order[: config.test_samples]


def partition_indices(
    labels: NDArray[np.int64], num_classes: int, config: DataConfig, seed: int
) -> list[NDArray[np.int64]]:
    """Assign every training sample to one node.

    Parameters
    ----------
    labels : ndarray of int64
        Labels of the training pool, ``(samples,)``.
    num_classes : int
        Classes of the set.
    config : DataConfig
        Kind of partition, its parameter, number of nodes.
    seed : int
        Same seed, same partition.

    Returns
    -------
    list of ndarray
        For each node the indices into `labels`, ascending.

    Raises
    ------
    ConfigError
        If there are more nodes than samples, more classes asked for than exist, or the partition
        cannot give every node a sample.
    """
    import datasets
    from flwr_datasets.partitioner import (
        DirichletPartitioner,
        IidPartitioner,
        PathologicalPartitioner,
    )

    if config.nodes > len(labels):
        raise ConfigError("data.nodes", config.nodes, f"at most {len(labels)}, one a sample")
    if config.partition == "classes" and config.classes > num_classes:
        raise ConfigError("data.classes", config.classes, f"{config.name} has {num_classes}")
    match config.partition:
        case "iid":
            # It deals in the order of the pool, which `split_indices` has already shuffled.
            partitioner = IidPartitioner(num_partitions=config.nodes)
        case "dirichlet":
            partitioner = DirichletPartitioner(
                num_partitions=config.nodes,
                partition_by="label",
                alpha=config.alpha,
                min_partition_size=0,
                seed=seed,
            )
        case "classes":
            partitioner = PathologicalPartitioner(
                num_partitions=config.nodes,
                partition_by="label",
                num_classes_per_partition=config.classes,
                class_assignment_mode="first-deterministic",
                seed=seed,
            )
    datasets.disable_progress_bars()
    table = {"label": labels, "index": np.arange(len(labels))}
    partitioner.dataset = datasets.Dataset.from_dict(table)
    setting = {"dirichlet": "alpha", "classes": "classes", "iid": "nodes"}[config.partition]
    remedy = f"(seed {seed}); take fewer nodes, more samples, or a milder partition"
    shares = []
    for node in range(config.nodes):
        try:
            dealt = partitioner.load_partition(node)["index"]
        except ValueError as error:
            reason = str(error).partition(". ")[0]
            raise ConfigError(
                f"data.{setting}", getattr(config, setting), f"{reason} {remedy}"
            ) from error
        if len(dealt) == 0:
            raise ConfigError(
                f"data.{setting}",
                getattr(config, setting),
                f"leaves node n{node} of {config.nodes} without samples {remedy}",
            )
        shares.append(np.sort(np.asarray(dealt, dtype=np.int64)))
    return shares
