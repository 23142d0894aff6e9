"""What a round of a pipeline takes, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network.world import EDGE, World
from mfd_flower.split.member import member_cost
from mfd_flower.split.pipeline import StageResult
from mfd_flower.split.roster import Roster, seated

WORLD = World(
    NetworkConfig(up_bps=8e3, down_bps=16e3, d2d_bps=32e3, latency_s=0.25, flops_per_s=1000.0), 3
)


def roster(*members: str, micro_batches: int = 2) -> Roster:
    return Roster("m", 1, 0, members, tuple(range(1, len(members))), micro_batches)


def result(flops: float, *links: tuple[str, int, int], batches: int = 3) -> StageResult:
    return StageResult(flops, 10, links, batches)


def cost(row: Roster, *results: StageResult, fits: int = 1, of: str = "n0") -> dict[str, float]:
    return member_cost(results, row, WORLD.seen_by(of, 0.0), fits=fits)


def test_the_slower_of_computing_and_sending_decides() -> None:
    ring = roster("n1", "n0", "n2")
    # 2 s of computing, filled and drained: (2 + 3 - 1) / 2 of it; 3 batches cross 2 cuts twice.
    computing = cost(ring, result(2000.0, ("n1", 400, 400), ("n2", 800, 800)))
    assert computing["seconds"] == pytest.approx(2 * 2.0 + 3 * 4 * 0.25)
    assert (computing["d2d"], computing["up"], computing["down"]) == (1200, 0, 0)
    # 16 kB towards n2 take 4 s.
    sending = cost(ring, result(2000.0, ("n1", 400, 400), ("n2", 16000, 800)))
    assert sending["seconds"] == pytest.approx(2 * 4.0 + 3 * 4 * 0.25)


def test_links_to_the_edge_server_are_up_and_down() -> None:
    row = roster("n0", EDGE, "n1")
    found = cost(row, result(0.0, (EDGE, 3000, 1000), ("n1", 16, 0)))
    assert (found["d2d"], found["up"], found["down"]) == (16, 3000, 1000)
    assert found["seconds"] == pytest.approx(2 * 3.0 + 3 * 4 * 0.25)


def test_the_edge_servers_own_links_take_as_long_as_the_nodes() -> None:
    row = roster("n0", EDGE, "n1")
    nodes = cost(row, result(0.0, (EDGE, 3000, 1000), ("n1", 16, 0)))
    edge = cost(row, result(0.0, ("n0", 1000, 3000)), of=EDGE)
    assert edge["seconds"] == nodes["seconds"]


def test_the_first_of_a_u_shape_computes_for_two_stages() -> None:
    link = ("n1", 8, 8)
    found = cost(roster("n0", "n1", "n0"), result(1000.0, link), result(500.0, link))
    assert found["flops"] == 1500.0
    assert found["peak-bytes"] == 20
    assert found["seconds"] == pytest.approx(2 * 1.5 + 3 * 4 * 0.25)


def test_an_answer_crosses_every_cut_once_and_returns() -> None:
    row = roster("n0", "n1", "n2")
    found = cost(row, result(1000.0, ("n1", 8, 0), ("n2", 0, 8), batches=1), fits=0)
    assert found["seconds"] == pytest.approx(2 * 1.0 + 3 * 0.25)


def test_one_stage_alone_waits_for_nobody() -> None:
    assert cost(roster("n0"), result(1000.0))["seconds"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("clients", "edge_stages", "expected"),
    [
        (["a", "b"], [1], ("a", EDGE, "b")),
        (["a", "b"], [1, 3], ("a", EDGE, "b", EDGE)),
        (["a"], [1, 3], ("a", EDGE)),
        (["a"], [2, 3], ("a",)),
    ],
)
def test_clients_keep_their_order_around_the_edge_server(
    clients: list[str], edge_stages: list[int], expected: tuple[str, ...]
) -> None:
    assert seated(clients, edge_stages) == expected


def test_a_roster_survives_its_record_and_nothing_else_is_one() -> None:
    one = roster("a", EDGE, "b")
    assert Roster.from_record(one.to_record()) == one
    with pytest.raises(ConfigError, match=r"roster\.cuts\[0\] = 'x': must be a whole number"):
        Roster.from_record({**one.to_record(), "cuts": ["x"]})
