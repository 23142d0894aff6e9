"""How good the model that a node ends with is: for all, and for data like the node's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.resizing import resizing
from mfd_flower.models.training import Metrics
from mfd_flower.node import evaluate_tunables
from mfd_flower.profiles import own_settings, profile_of
from mfd_flower.records import tensors_of
from mfd_flower.runtime.curve import Models


def node_quality(run: RunConfig, models: Models) -> dict[str, dict[str, Any]]:
    """Return accuracies by node, on the test set and on one of the node's own label shares.

    The latter is the mean of the classes' recalls by those shares, over the classes that the test
    set has: what a test set dealt out as the node's shard was would show, without its noise. Who
    has no model of its own has the common one, at the node's own size; of several walkers' models
    the mean counts. The accuracy on classes that the node has none of is the mean of their recalls.
    What there is not, is None.
    """
    federation, quality = federation_of(run), {}
    measured: dict[tuple[RunConfig, str], Metrics | None] = {}
    nodes = {f"n{node}" for node in range(run.data.nodes)}
    for node in range(run.data.nodes):
        name, counts = f"n{node}", federation.label_counts(node)
        settings, profile = own_settings(run, node), profile_of(run, node)
        names = [name] if name in models else [each for each in models if each not in nodes]
        for key in ((settings, each) for each in names):
            if key not in measured:
                measured[key] = _measured(run, settings, tensors_of(models[key[1]]), key[1] == name)
        own = [found for each in names if (found := measured[settings, each]) is not None]
        quality[name] = {
            "accuracy": float(np.mean([each.accuracy for each in own])) if own else None,
            "own_accuracy": _of_shares(counts, own),
            "absent_accuracy": _of_shares((counts == 0).astype(np.int64), own),
            "profile": profile.name if profile else "",
        }
    return quality


def _measured(
    run: RunConfig, settings: RunConfig, tensors: Mapping[str, Tensor], is_own: bool
) -> Metrics | None:
    """Measure a model; one that all share as the node has it, at its own size, if it can."""
    if not is_own and settings.model != run.model:
        classes = federation_of(run).num_classes
        try:
            way = resizing(run.model, settings.model, classes, run.seed)
        except ConfigError:  # Its own model is of another kind, and was not heard of.
            return None
        tensors = way.there(tensors)
    return evaluate_tunables(settings, tensors)


def _of_shares(counts: NDArray[np.int64], measured: list[Metrics]) -> float | None:
    if not measured:
        return None
    recalls = np.mean([np.array(each.recalls, dtype=float) for each in measured], axis=0)
    there = np.isfinite(recalls) & (counts > 0)
    if not there.any():
        return None
    return float(np.average(recalls[there], weights=counts[there]))
