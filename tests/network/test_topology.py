"""Topologies are what their names say, and the same for one seed."""

from __future__ import annotations

import networkx as nx
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network.world import World, neighbours_of


@pytest.mark.parametrize(
    ("settings", "degree"),
    [
        (NetworkConfig(), 9),
        (NetworkConfig(topology="ring"), 2),
        (NetworkConfig(topology="regular", degree=4), 4),
    ],
)
def test_every_node_has_its_degree_and_links_go_both_ways(
    settings: NetworkConfig, degree: int
) -> None:
    world, again = World(settings, 10, seed=3), World(settings, 10, seed=3)
    names = [f"n{i}" for i in range(10)]
    found = {name: world.neighbours(name, 0.0) for name in names}
    assert {len(others) for others in found.values()} == {degree}
    assert all(a in found[b] for a, others in found.items() for b in others)
    assert nx.is_connected(nx.Graph([(a, b) for a, others in found.items() for b in others]))
    assert found == {name: again.neighbours(name, 0.0) for name in names}


def test_a_sparse_regular_graph_is_connected_for_every_seed() -> None:
    settings = NetworkConfig(topology="regular", degree=2)
    for seed in range(20):
        found = neighbours_of(settings, 8, seed)
        graph = nx.Graph([(a, b) for a, others in found.items() for b in others])
        assert nx.is_connected(graph)


@pytest.mark.parametrize(("nodes", "degree"), [(4, 4), (5, 3)])
def test_impossible_graph_is_refused(nodes: int, degree: int) -> None:
    with pytest.raises(ConfigError, match=r"network\.degree"):
        neighbours_of(NetworkConfig(topology="regular", degree=degree), nodes, 0)
