"""Tours: every node is visited before any is again, however many there are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.packets import PacketError
from mfd_flower.packets.members import bitmap, members_in
from mfd_flower.routing import Policy
from mfd_flower.walk.plan import plan_of
from tests.harness import trial

NODES = 66
"""More than a packet remembers by name."""


def settings(policy: dict[str, Any], rounds: int = 2, **network: Any) -> RunConfig:
    return RunConfig.from_tables(
        {
            "data": {"name": "digits", "nodes": NODES, "train_samples": 66, "test_samples": 10},
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": network,
            "strategy": {
                "name": "mfd-walk", "rounds": rounds, "options": json.dumps({"policy": policy}),
            },
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "interest", "advert_hops": 0, "probes": 3},
        {"name": "random", "tour": True, "advert_hops": 0},
    ],
    ids=["asks three", "random"],
)
def test_all_are_visited_once_in_each_tour(policy: dict[str, Any]) -> None:
    found = trial(settings(policy))
    visits = found.grid.visits
    assert len(visits) == 2 * NODES
    assert len(set(visits[:NODES])) == len(set(visits[NODES:])) == NODES


def test_by_names_alone_some_are_left_out() -> None:
    """What a tour is for: 64 names are all that a packet remembers."""
    policy = {"name": "label-balance", "memory": 64, "advert_hops": 0, "probes": 2}
    visits = trial(settings(policy)).grid.visits
    assert len(set(visits[:NODES])) < NODES


def test_on_a_sparse_graph_it_goes_where_it_has_not_been() -> None:
    sparse = {"topology": "regular", "degree": 3}
    toured = trial(settings({"name": "random", "tour": True}, 1, **sparse)).grid.visits
    plain = trial(settings({"name": "random"}, 1, **sparse)).grid.visits
    assert len(set(toured)) > len(set(plain))


def test_only_policies_that_rank_many_nodes_tour_by_themselves() -> None:
    for name, nodes, memory, expected in (
        ("interest", 64, None, False),
        ("interest", 65, None, True),
        ("interest", 65, 64, False),
        ("random", 100, None, False),
        ("interest", 4096, None, True),
        ("interest", 4097, None, False),
    ):
        table = {"name": name} | ({} if memory is None else {"memory": memory})
        assert Policy.read(table, nodes).tour is expected
    assert plan_of(settings({"name": "kl-near"})).policy.tour


def test_a_tour_that_no_bitmap_has_room_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.tour = True: false with more than 4096 nodes"):
        Policy.read({"name": "random", "tour": True}, 4097)
    with pytest.raises(PacketError, match=r"toured = ffff: not a bitmap of 6 nodes"):
        Policy(tour=True).toured("ffff", "n0", 6)


def test_a_tour_is_a_bit_a_node() -> None:
    everybody = [f"n{number}" for number in range(1000)]
    text = bitmap(everybody)
    assert len(text) == 250
    assert members_in(text, 1000) == frozenset(everybody)


@pytest.mark.parametrize("network", [{"topology": "ring"}, {"topology": "geometric", "degree": 3}])
@pytest.mark.parametrize("name", ["random", "label-balance"])
def test_on_a_graph_that_stays_all_are_visited_within_two_tours(
    name: str, network: dict[str, Any]
) -> None:
    found = trial(settings({"name": name, "tour": True}, 2, **network))
    assert len(set(found.grid.visits)) == NODES
