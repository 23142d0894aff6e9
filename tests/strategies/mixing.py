"""Nodes that learn nothing but who they are: the rows of the matrix by which a round mixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.config import RunConfig
from mfd_flower.node import Node
from tests.harness import Trial

MakeRun = Callable[..., RunConfig]
Matrix = NDArray[np.float64]
HEAD = {"tune": "head"}
RANDOM = {"neighbours": "random", "degree": 2}
GRAPHS = {
    "star": nx.star_graph(4),
    "lollipop": nx.lollipop_graph(4, 3),
    "sparse": nx.connected_watts_strogatz_graph(9, 4, 0.8, seed=1),
}
VARIANTS = pytest.mark.parametrize(
    ("options", "network"),
    [({}, {}), ({}, {"topology": "ring"}), (RANDOM, {})],
    ids=["full", "ring", "random"],
)


def learns_its_name(monkeypatch: pytest.MonkeyPatch, *, once: bool) -> None:
    """Let a local update return the node's one-hot vector: in the first round alone, or in all."""

    def fit(node: Node, tensors: Mapping[str, Tensor], step: int) -> tuple[dict[str, Tensor], None]:
        name = torch.nn.functional.one_hot(torch.tensor(node.index), node.run.data.nodes)
        return {"x": name.double()} if step == 1 or not once else dict(tensors), None

    monkeypatch.setattr(Node, "fit", fit)


def rows(found: Trial, step: int) -> Matrix:
    """Return the nodes' models after a step as one matrix; a node without one has zeros."""
    nodes, models = found.run.data.nodes, found.models[step]
    assert isinstance(models, dict)
    return np.array(
        [
            models[f"n{i}"]["x"].numpy() if f"n{i}" in models else np.zeros(nodes)
            for i in range(nodes)
        ]
    )


def bits(model: ArrayRecord) -> dict[str, bytes]:
    return {name: array.data for name, array in model.items()}


def models_of(found: Trial) -> list[dict[str, dict[str, bytes]]]:
    return [{name: bits(model) for name, model in each.items()} for each in found.models[1:]]
