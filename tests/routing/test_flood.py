"""Flooding reaches exactly the nodes within reach, once, at a cost that can be counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.routing import Advert, RoutingTable

Topology = dict[str, list[str]]
Tables = dict[str, RoutingTable]


def spread(
    topology: Topology,
    adverts: list[Advert],
    hops: int,
    now_s: float,
    tables: Tables | None = None,
    link_bps: Callable[[str, str], float] = lambda sender, receiver: 1.0,
) -> tuple[Tables, int]:
    """Let nodes pass on what is news to them, round by round; returns tables and copies sent."""
    tables = tables or {address: RoutingTable(address) for address in topology}
    sent = 0
    outbox = [(a.address, a.address, replace(a, hops_left=hops - 1)) for a in adverts]
    while outbox:
        before, outbox = outbox, []
        for sender, source, advert in before:
            for receiver in topology[sender]:
                if receiver == source:
                    continue
                sent += 1
                rate_bps = link_bps(sender, receiver)
                news = tables[receiver].receive(advert, now_s, sender, rate_bps)
                if news is not None:
                    outbox.append((receiver, sender, news))
    return tables, sent


def topology_of(graph: nx.Graph) -> dict[str, list[str]]:
    return {f"n{node}": [f"n{other}" for other in graph[node]] for node in graph}


def adverts_of(graph: nx.Graph, sequence: int = 0) -> list[Advert]:
    return [
        Advert(f"n{v}", degree=graph.degree[v], sequence=sequence, lifetime_s=3600.0) for v in graph
    ]


@given(
    nodes=st.integers(2, 12),
    density=st.floats(0, 1),
    seed=st.integers(0, 10**6),
    hops=st.integers(1, 4),
)
def test_every_node_ends_with_exactly_those_within_k_hops(
    nodes: int, density: float, seed: int, hops: int
) -> None:
    graph = nx.gnp_random_graph(nodes, density, seed=seed)
    tables, transmissions = spread(topology_of(graph), adverts_of(graph), hops, now_s=0.0)
    for node in graph:
        within = nx.single_source_shortest_path_length(graph, node, cutoff=hops)
        known = {c.address for c in tables[f"n{node}"].candidates(0.0)}
        assert known == {f"n{other}" for other in within if other != node}
        assert tables[f"n{node}"].neighbours == [f"n{v}" for v in sorted(graph[node])]
    # No advert crosses a link more than once in each direction.
    assert transmissions <= nodes * 2 * graph.number_of_edges()


@given(nodes=st.integers(3, 12), hops=st.integers(1, 12))
def test_transmissions_on_a_ring(nodes: int, hops: int) -> None:
    """Two waves of `hops` links until they meet; a flood of all is 2E - N + 1, here N + 1."""
    ring = nx.cycle_graph(nodes)
    _, transmissions = spread(topology_of(ring), adverts_of(ring), hops, 0.0)
    assert transmissions == nodes * (2 * hops if hops <= nodes // 2 else nodes + 1)


def test_transmissions_of_a_one_hop_spread_are_twice_the_links() -> None:
    graph = nx.random_regular_graph(8, 100, seed=0)
    _, transmissions = spread(topology_of(graph), adverts_of(graph), 1, 0.0)
    assert transmissions == 2 * graph.number_of_edges()


def test_a_second_wave_updates_the_tables_and_costs_the_same() -> None:
    graph = nx.random_regular_graph(4, 30, seed=1)
    topology = topology_of(graph)
    tables, first = spread(topology, adverts_of(graph), 2, now_s=0.0)
    assert tables["n0"].expire(3600.0) != []
    _, second = spread(topology, adverts_of(graph, sequence=1), 2, 10.0, tables)
    assert second == first
    assert tables["n5"].expire(3609.0) == []
    _, repeated = spread(topology, adverts_of(graph, sequence=1), 2, 20.0, tables)
    # Nobody passes on what is not new: only the origins' own transmissions remain.
    assert repeated == 2 * graph.number_of_edges()


def test_link_rate_is_that_of_the_first_link_on_the_way() -> None:
    rates = {("n0", "n1"): 1e6, ("n1", "n2"): 5e6}

    def link_bps(sender: str, receiver: str) -> float:
        return rates[min(sender, receiver), max(sender, receiver)]

    graph = nx.path_graph(3)
    tables, _ = spread(topology_of(graph), adverts_of(graph), 2, 0.0, link_bps=link_bps)
    known = {c.address: c.link_bps for c in tables["n0"].candidates(0.0)}
    assert known == pytest.approx({"n1": 1e6, "n2": 1e6})
