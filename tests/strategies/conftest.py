"""What tests of several strategies run on."""

from __future__ import annotations

from typing import Any

import pytest

from mfd_flower.config import NetworkConfig, RunConfig
from mfd_flower.network import worlds
from mfd_flower.network.world import World
from tests.strategies.mixing import GRAPHS, HEAD, MakeRun


@pytest.fixture
def on_graph(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Return a builder of runs on one of `GRAPHS`, in which degrees differ."""

    def build(name: str, rounds: int, **tables: Any) -> RunConfig:
        graph = GRAPHS[name]

        class Drawn(World):
            def __init__(self, config: NetworkConfig, nodes: int, seed: int) -> None:
                super().__init__(config, nodes)

            def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
                return tuple(f"n{other}" for other in sorted(graph[int(address[1:])]))

        monkeypatch.setitem(worlds.WORLDS, name, Drawn)
        nodes = len(graph)
        data = {"nodes": nodes, "train_samples": 8 * nodes}
        return make_run("gossip", rounds, data=data, model=HEAD, network={"world": name}, **tables)

    return build
