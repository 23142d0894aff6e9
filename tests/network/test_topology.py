"""Topologies are what their names say, and the same for one seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import networkx as nx
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network.topology import neighbours_of
from mfd_flower.network.world import World


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


@pytest.mark.parametrize(
    "settings",
    [
        NetworkConfig(topology="regular", degree=2),
        NetworkConfig(topology="geometric", degree=2),
        NetworkConfig(topology="x2"),
    ],
)
@pytest.mark.parametrize("nodes", [3, 8, 31])
def test_a_sparse_graph_is_connected_for_every_seed(settings: NetworkConfig, nodes: int) -> None:
    for seed in range(20):
        found = neighbours_of(settings, nodes, seed)
        graph = nx.Graph([(a, b) for a, others in found.items() for b in others])
        assert nx.is_connected(graph)
        assert len(graph) == nodes
        assert all(a in found[b] for a, others in found.items() for b in others)
        assert found == neighbours_of(settings, nodes, seed)


def test_base_stations_have_six_beside_them_but_at_the_rim() -> None:
    """One, six around it and twelve around those: the middle seven have six neighbours."""
    found = neighbours_of(NetworkConfig(topology="x2"), 19, 0)
    degrees = [len(found[f"n{number}"]) for number in range(19)]
    assert degrees[:7] == [6] * 7
    assert Counter(degrees[7:]) == {3: 6, 4: 6}


def test_a_geometric_graph_has_about_as_many_neighbours_as_asked() -> None:
    found = neighbours_of(NetworkConfig(topology="geometric", degree=12), 500, 0)
    assert sum(map(len, found.values())) / 500 == pytest.approx(12, rel=0.2)


@pytest.mark.parametrize("end", [".gml", ".graphml", ".edgelist", ".json"])
@pytest.mark.parametrize("prefix", ["", "n"])
def test_any_graph_of_networkx_can_be_used(tmp_path: Path, end: str, prefix: str) -> None:
    graph = nx.relabel_nodes(nx.star_graph(4), {node: f"{prefix}{node}" for node in range(5)})
    path = tmp_path / f"g{end}"
    if end == ".json":
        path.write_text(json.dumps(nx.node_link_data(graph, edges="edges")))
    else:
        getattr(nx, f"write_{end[1:]}")(graph, path)
    found = neighbours_of(NetworkConfig(topology=f"file:{path}"), 5, 0)
    assert found == {"n0": ("n1", "n2", "n3", "n4")} | {f"n{n}": ("n0",) for n in range(1, 5)}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("g.txt", "", "accepted: names that end in .graphml, .gml, .edgelist, .json"),
        ("none.gml", None, "not readable (No such file or directory)"),
        ("g.gml", "nonsense [", "no graph in networkx's form (NetworkXError)"),
        ("g.json", "{}", "no graph in networkx's form (KeyError)"),
        ("g.edgelist", "0 1\n1 2\n", "n3 is missing; accepted: 4 nodes, n0 to n3"),
        ("g.edgelist", "0 1\n1 2\n2 3\n3 4\n", "there are 5; accepted: 4 nodes, n0 to n3"),
        ("g.edgelist", "0 1\n2 3\n", "n0 does not reach n2, n3"),
    ],
)
def test_a_bad_graph_is_one_line(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        neighbours_of(NetworkConfig(topology=f"file:{path}"), 4, 0)
    assert str(refused.value) == f"network.topology = 'file:{path}': {said}"


@pytest.mark.parametrize(("nodes", "degree"), [(4, 4), (5, 3)])
def test_impossible_graph_is_refused(nodes: int, degree: int) -> None:
    with pytest.raises(ConfigError, match=r"network\.degree"):
        neighbours_of(NetworkConfig(topology="regular", degree=degree), nodes, 0)
