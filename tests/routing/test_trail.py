"""A packet finds all nodes of a graph that stays, by what nodes remember and no header carries."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.routing.trail import Trail


def hops_to_all(graph: nx.Graph, start: int = 0, most: int = 10_000) -> int:
    """Go to the first neighbour that is new, else as the trail says; returns hops until all."""
    trails: dict[int, Trail] = {start: Trail()}
    here = start
    for hop in range(most):
        if len(trails) == len(graph):
            return hop
        near = sorted(graph[here])
        new = [node for node in near if node not in trails]
        if new:
            trails[new[0]] = Trail(f"n{here}")
            here = new[0]
        else:
            here = int(trails[here].onward([f"n{node}" for node in near], hop).removeprefix("n"))
    raise AssertionError("not all were found")


@given(st.integers(2, 40), st.integers(0, 2**31))
def test_every_node_is_found_within_twice_as_many_hops(nodes: int, seed: int) -> None:
    tree = nx.random_labeled_tree(nodes, seed=seed)
    assert hops_to_all(tree) <= 2 * nodes
    more = nx.gnm_random_graph(nodes, nodes, seed=seed)
    tree.add_edges_from(more.edges)
    assert hops_to_all(tree) <= 2 * nodes


@given(st.integers(3, 25), st.integers(0, 2**31))
def test_with_no_way_back_it_still_comes_to_all(nodes: int, seed: int) -> None:
    """Every node has forgotten who brought the packet: the rotor alone, within 2 m D hops."""
    graph = nx.random_labeled_tree(nodes, seed=seed)
    graph.add_edges_from(nx.gnm_random_graph(nodes, nodes, seed=seed).edges)
    trails = {node: Trail() for node in graph}
    here, seen = 0, {0}
    bound = 2 * graph.number_of_edges() * max(1, nx.diameter(graph)) + nodes
    for hop in range(bound):
        near = [f"n{node}" for node in sorted(graph[here])]
        here = int(trails[here].onward(near, hop).removeprefix("n"))
        seen.add(here)
    assert len(seen) == nodes


def test_a_way_back_is_gone_once_then_the_longest_unused() -> None:
    trail = Trail("n7")
    near = ["n2", "n7", "n10"]
    assert [trail.onward(near, hop) for hop in range(1, 6)] == ["n7", "n2", "n7", "n10", "n2"]
    assert Trail("n7").onward(["n2", "n10"], 1) == "n2"


@given(st.text(max_size=5), st.dictionaries(st.text(max_size=5), st.integers(0, 2**40)))
def test_it_is_kept_as_plain_values(came_from: str, sent: dict[str, int]) -> None:
    trail = Trail(came_from, sent)
    assert Trail.from_told(trail.told()) == trail


def test_there_is_nowhere_to_go_without_neighbours() -> None:
    with pytest.raises(ValueError, match="empty"):
        Trail().onward([], 1)
