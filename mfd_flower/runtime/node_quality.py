"""How good the model that a node ends with is: for all, and for data like the node's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.training import Metrics
from mfd_flower.node import evaluate_tunables
from mfd_flower.profiles import profile_of
from mfd_flower.records import tensors_of
from mfd_flower.runtime.curve import Models, settings_behind


def node_quality(run: RunConfig, models: Models) -> dict[str, dict[str, Any]]:
    """Return accuracies by node, on the test set and on one of the node's own label shares.

    The latter is the mean of the classes' recalls by those shares, over the classes that the test
    set has: what a test set dealt out as the node's shard was would show, without its noise. Who
    has no model of its own has the common one, of several walkers' their mean.
    """
    federation, found = federation_of(run), {}
    measured = {
        name: evaluate_tunables(settings_behind(run, name), tensors_of(model))
        for name, model in models.items()
    }
    for node in range(run.data.nodes):
        name, counts = f"n{node}", federation.label_counts(node)
        own = [measured[name]] if name in measured else list(measured.values())
        profile = profile_of(run, node)
        found[name] = {
            "accuracy": float(np.mean([each.accuracy for each in own])),
            "own_accuracy": _of_shares(counts, own),
            "profile": profile.name if profile else "",
        }
    return found


def _of_shares(counts: NDArray[np.int64], measured: list[Metrics]) -> float | None:
    recalls = np.mean([np.array(each.recalls, dtype=float) for each in measured], axis=0)
    there = np.isfinite(recalls) & (counts > 0)
    if not there.any():
        return None
    return float(np.average(recalls[there], weights=counts[there]))
