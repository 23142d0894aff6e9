"""Routes without training are those of runs, and what is counted on the way adds up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig, RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.network import WirelessOptions, WirelessWorld
from mfd_flower.network.world import World
from mfd_flower.network.worlds import new_world
from mfd_flower.routes import RoutesOnly, VisitCosts
from mfd_flower.routing import Policy
from mfd_flower.runtime.runner import run_locally

NODES = 50
STILL = {"width_m": 400.0, "height_m": 400.0, "devices": ["phone-high", "phone-low"]}
WALKING = {**STILL, "mobility": "waypoint", "low_m_per_s": 5.0, "high_m_per_s": 9.0}
ASKS = {"advert_hops": 0, "probes": 3, "tour": True}


def settings(world: dict[str, Any], policy: dict[str, Any]) -> RunConfig:
    return RunConfig.from_tables(
        {
            "data": {
                "name": "digits", "nodes": NODES, "train_samples": 400, "test_samples": 20,
                "partition": "classes", "classes": 2, "validation": 0.0,
            },
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": {"world": "wireless", "options": json.dumps(world)},
            "strategy": {
                "name": "mfd-walk", "rounds": 1, "options": json.dumps({"policy": policy}),
            },
        }
    )  # fmt: skip


def label_counts(run: RunConfig) -> NDArray[np.float64]:
    federation = federation_of(run)
    return np.array([federation.label_counts(node) for node in range(NODES)], float)


def routes(run: RunConfig, costs: VisitCosts, **changed: Any) -> RoutesOnly:
    policy = Policy.read(run.strategy.keywords()["policy"], NODES)
    world = new_world(run.network, NODES, run.seed)
    return RoutesOnly(world, policy, label_counts(run), costs, run.seed, **changed)


@pytest.mark.parametrize(
    ("place", "policy"),
    [
        (STILL, {"name": "label-balance", **ASKS}),
        (STILL, {"name": "interest", **ASKS}),
        (STILL, {"name": "kl-near", **ASKS, "tour": False, "memory": 20}),
        (STILL, {"name": "fastest", **ASKS, "flops": 1e9}),
        (STILL, {"name": "metropolis", **ASKS, "tour": False}),
        (STILL, {"name": "random", "advert_hops": 0}),
        (WALKING, {"name": "label-balance", **ASKS}),
        (WALKING, {"name": "fastest", **ASKS}),
        (WALKING, {"name": "random", "advert_hops": 0}),
    ],
    ids=lambda value: value.get("name") or value.get("mobility", "static"),
)
def test_a_route_is_that_of_a_run(place: dict[str, Any], policy: dict[str, Any]) -> None:
    run = settings(place, policy)
    found = run_locally(run)
    assert not found["failures"]
    hops = len(found["visits"])
    wire, counts = found["wire_by_type"], label_counts(run)
    samples = sum(counts[int(name[1:])].sum() for name in found["visits"])
    asked = max(1, wire.get("query.probe", 0) // 190)
    costs = VisitCosts(
        packet_bytes=wire["train.hop"] // hops,
        question_bytes=max(1, wire.get("query.probe", 0) // asked),
        advert_bytes=max(1, wire.get("query.table", 0) // asked),
        flops_a_sample=sum(found["node_flops"].values()) / samples,
    )
    route = routes(run, costs).run(hops)
    assert [f"n{node}" for node in route.nodes] == found["visits"]
    world = new_world(run.network, NODES, run.seed)
    speeds = np.array([world.device(name).flops_per_s for name in found["visits"]])
    done_s = route.arrived_s + costs.flops_a_sample * counts[route.nodes].sum(1) / speeds
    points = [point["virtual_seconds"] for point in found["points"][1:]]
    if policy["name"] != "metropolis":
        # A run sends its first packet to itself, and a point waits for the receipt of its hop.
        np.testing.assert_allclose(done_s, points, rtol=0.01, atol=2.5 * run.network.latency_s)
    assert len(set(found["visits"])) > 15


def small(nodes: int = 30, **options: Any) -> WirelessWorld:
    options = {"width_m": 300.0, "height_m": 300.0, **options}
    return WirelessWorld(NetworkConfig(), nodes, 0, WirelessOptions(**options))


def made(world: World, nodes: int = 30, walkers: int = 1, hops: int = 200, **policy: Any) -> Any:
    counts = np.random.default_rng(1).integers(1, 20, (nodes, 4)).astype(float)
    settled = Policy.read({"advert_hops": 0, **policy}, nodes)
    return RoutesOnly(world, settled, counts, VisitCosts(), 3, walkers).run(hops), counts


@pytest.mark.parametrize("mobility", ["static", "gauss-markov"])
def test_hops_come_in_the_order_of_time_and_go_to_neighbours(mobility: str) -> None:
    world = small(mobility=mobility)
    route, _ = made(world, walkers=4, name="random")
    assert (np.diff(route.arrived_s) >= 0).all()
    for walker in range(4):
        went, at_s = route.of_walker(walker), route.arrived_s[route.walkers == walker]
        for here, there, since_s in zip(went, went[1:], at_s, strict=False):
            assert here == there or f"n{there}" in world.neighbours(f"n{here}", since_s)
    assert len(set(route.walkers.tolist())) == 4


def test_more_hops_go_on_where_fewer_ended() -> None:
    world = small(mobility="waypoint")
    longer, _ = made(world, walkers=3, hops=120, name="label-balance", probes=2)
    shorter, _ = made(world, walkers=3, hops=50, name="label-balance", probes=2)
    np.testing.assert_array_equal(longer.nodes[:50], shorter.nodes)
    np.testing.assert_array_equal(longer.arrived_s[:50], shorter.arrived_s)


def test_what_is_sent_is_counted_as_it_is_sent() -> None:
    route, counts = made(small(), walkers=2, name="interest", probes=3)
    costs = VisitCosts()
    assert route.packet_bytes == 200 * costs.packet_bytes
    assert route.control_bytes % (costs.question_bytes + costs.advert_bytes) == 0
    quiet, _ = made(small(), walkers=2, name="random")
    assert quiet.control_bytes == 0
    seen = route.samples(counts)
    assert (np.diff(seen) >= 0).all()
    assert seen[-1] == counts[np.unique(route.nodes)].sum()


def test_who_is_alone_keeps_the_packet_until_somebody_comes() -> None:
    """Two nodes that walk through 300 m of town, and hear each other within 30."""
    world = small(2, d2d_range_m=30.0, mobility="waypoint", low_m_per_s=5.0, high_m_per_s=9.0)
    costs = VisitCosts(flops_a_sample=1e11)
    counts = np.ones((2, 4))
    settled = Policy.read({"name": "random", "advert_hops": 0}, 2)
    route = RoutesOnly(world, settled, counts, costs, 0).run(400)
    moved = np.flatnonzero(np.diff(route.nodes))
    assert 0 < len(moved) < 399
    for hop in moved:
        here, since_s = f"n{route.nodes[hop]}", float(route.arrived_s[hop])
        assert len(world.neighbours(here, since_s)) == 1


def test_sums_are_added_once_and_passed_on_later() -> None:
    """A node that computes for ten seconds does so at its first visit alone."""
    costs, counts = VisitCosts(flops_a_sample=1e12), np.ones((30, 4))
    policy = Policy.read({"name": "random", "advert_hops": 0}, 30)
    route = RoutesOnly(small(), policy, counts, costs, 3, once=True).run(300)
    stays_s, first = np.diff(route.arrived_s), np.zeros(300, bool)
    first[np.unique(route.nodes, return_index=True)[1]] = True
    assert stays_s[first[:-1]].min() > 1 > 0.2 > stays_s[~first[:-1]].max()


def test_who_is_alone_and_has_nothing_to_do_waits_for_the_world_to_change() -> None:
    world = small(2, d2d_range_m=30.0, mobility="waypoint", low_m_per_s=5.0, high_m_per_s=9.0)
    policy = Policy.read({"name": "fastest", "advert_hops": 0, "probes": 1}, 2)
    route = RoutesOnly(world, policy, np.ones((2, 4)), VisitCosts(), 0, once=True).run(300)
    assert set(route.nodes.tolist()) == {0, 1}
    assert route.arrived_s[-1] > 30
    still = small(2, d2d_range_m=1.0)
    route = RoutesOnly(still, policy, np.ones((2, 4)), VisitCosts(), 0, once=True).run(3)
    assert set(route.nodes.tolist()) == {0}
    assert route.arrived_s[-1] == np.inf  # Nothing will ever change.


@pytest.mark.parametrize("policy", [{"advert_hops": 1}, {"loss": True, "probes": 1}])
def test_what_nodes_cannot_know_there_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"options\.policy = 'interest': advert_hops = 0, without"
    ):
        made(small(), name="interest", **policy)
