"""A plan is the shortest tour there is, and following it costs what it says, while links stay."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.config import NetworkConfig
from mfd_flower.network import WirelessOptions, WirelessWorld
from mfd_flower.network.world import World
from mfd_flower.routes import PlannedTour, VisitCosts
from mfd_flower.routes.planner import (
    GAP,
    link_seconds,
    nearest_order,
    planned_tour,
    solved_order,
    turned,
)

COSTS = VisitCosts(flops_a_sample=1e6)


def length(order: Any, times: Any) -> float:
    return float(sum(times[a, b] for a, b in pairwise(order)))


@given(st.integers(1, 7), st.integers(0, 2**31), st.data())
def test_a_solved_order_is_the_best_of_all(nodes: int, seed: int, data: Any) -> None:
    """Against all orders; times there and back differ."""
    times = np.random.default_rng(seed).random((nodes, nodes))
    start = data.draw(st.integers(0, nodes - 1))
    others = [node for node in range(nodes) if node != start]
    best = min(length((start, *rest), times) for rest in permutations(others))
    order = solved_order(times, start)
    assert order is not None
    assert order[0] == start
    assert sorted(order) == list(range(nodes))
    assert best - 1e-9 <= length(order, times) <= best * (1 + GAP) + 1e-9
    near = nearest_order(times, start)
    assert sorted(near) == list(range(nodes))
    both = times + times.T
    better = turned(near, both)
    assert better[0] == start
    assert sorted(better) == list(range(nodes))
    assert length(better, both) <= length(near, both) + 1e-9


def wireless(nodes: int, **options: Any) -> WirelessWorld:
    options = {"width_m": 300.0, "height_m": 300.0, "patience_s": 0.5, **options}
    return WirelessWorld(NetworkConfig(), nodes, 0, WirelessOptions(**options))


@pytest.mark.parametrize("world", [World(NetworkConfig(topology="ring"), 9), wireless(25)])
def test_a_plan_comes_to_all_that_can_be_reached_over_links_that_exist(world: World) -> None:
    nodes = 9 if type(world) is World else 25
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(
        (node, int(other[1:])) for node in range(nodes) for other in world.neighbours(f"n{node}", 0)
    )
    plan = planned_tour(world, nodes, 0, 5000)
    assert set(plan.order) == nx.node_connected_component(graph, 0)
    for here, there in pairwise(plan.order):
        assert all(graph.has_edge(*link) for link in pairwise([here, *plan.way(here, there)]))


def test_while_links_stay_a_tour_takes_what_was_planned_and_what_is_computed() -> None:
    world = wireless(25)
    counts = np.random.default_rng(0).integers(1, 9, (25, 3)).astype(float)
    tour = PlannedTour(world, counts, COSTS)
    route = tour.run()
    plan = planned_tour(world, 25, 0, COSTS.packet_bytes)
    assert route.nodes.tolist() == plan.order
    links = link_seconds(world, 25, COSTS.packet_bytes, 0.0).toarray()
    ways = [[here, *plan.way(here, there)] for here, there in pairwise(plan.order)]
    travel_s = sum(length(way, links) for way in ways)
    stops = plan.order[:-1]
    work = COSTS.flops_a_sample * counts[stops].sum(1)
    speed = np.array([world.device(f"n{node}").flops_per_s for node in stops])
    # What travels is a little more than the packet: the plan.
    assert route.arrived_s[-1] == pytest.approx(travel_s + (work / speed).sum(), rel=0.02)
    assert route.arrived_s[-1] > travel_s
    assert (tour.plans, tour.missed, route.broken) == (1, 25 - len(plan.order), 0)
    assert route.packet_bytes % COSTS.packet_bytes == 0
    assert route.control_bytes > 25 * COSTS.advert_bytes


@pytest.mark.parametrize("replans", [0, 1, 3])
def test_where_nodes_drive_a_plan_does_not_hold(replans: int) -> None:
    moving = {"mobility": "waypoint", "low_m_per_s": 8.0, "high_m_per_s": 14.0}
    counts = np.ones((20, 3))
    costs = VisitCosts(flops_a_sample=1e10)
    tour = PlannedTour(wireless(20, **moving), counts, costs, replans=replans)
    route = tour.run()
    assert route.broken > 0
    assert (tour.plans > 1) is (replans > 0)
    assert len(set(route.nodes.tolist())) == len(route.nodes)
    assert len(route.nodes) + tour.missed >= 0.9 * 20
    assert (np.diff(route.arrived_s) > 0).all()


def test_a_new_plan_at_each_break_costs_control_and_saves_time() -> None:
    moving = {"mobility": "waypoint", "low_m_per_s": 8.0, "high_m_per_s": 14.0}
    counts, costs = np.ones((20, 3)), VisitCosts(flops_a_sample=1e10)
    once, again = (
        PlannedTour(wireless(20, **moving), counts, costs, replans=replans) for replans in (0, 1)
    )
    first, second = once.run(), again.run()
    assert second.control_bytes > 2 * first.control_bytes
    assert second.broken < first.broken
    fresh = PlannedTour(wireless(20, **moving), counts, costs, replans=1, at_stops=True)
    assert fresh.run().broken < second.broken
    assert fresh.plans > again.plans
