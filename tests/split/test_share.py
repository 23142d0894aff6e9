"""What a round of a pipeline takes, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from mfd_flower.config import NetworkConfig
from mfd_flower.split.roster import EDGE, Roster, seated
from mfd_flower.split.share import Share, bill

NETWORK = NetworkConfig(up_bps=8e3, down_bps=16e3, d2d_bps=32e3, latency_s=0.25, flops_per_s=1000.0)


def roster(*members: str, micro_batches: int = 2) -> Roster:
    return Roster("m", 1, 0, members, tuple(range(1, len(members))), micro_batches)


def share(flops: float, *links: tuple[str, int, int], batches: int = 3) -> Share:
    return Share({}, math.nan, None, batches, flops, 10, links)


def test_the_slower_of_computing_and_sending_decides() -> None:
    ring = roster("a", "b", "c")
    # 2 s of computing, filled and drained: (2 + 3 - 1) / 2 of it; 3 batches cross 2 cuts twice.
    computing = bill([share(2000.0, ("a", 400, 400), ("c", 800, 800))], ring, NETWORK, fits=1)
    assert computing["seconds"] == pytest.approx(2 * 2.0 + 3 * 4 * 0.25)
    assert (computing["d2d"], computing["up"], computing["down"]) == (1200, 0, 0)
    # 16 kB towards c take 4 s.
    sending = bill([share(2000.0, ("a", 400, 400), ("c", 16000, 800))], ring, NETWORK, fits=1)
    assert sending["seconds"] == pytest.approx(2 * 4.0 + 3 * 4 * 0.25)


def test_links_to_the_edge_server_are_up_and_down() -> None:
    row = roster("a", EDGE, "b")
    found = bill([share(0.0, (EDGE, 3000, 1000), ("b", 16, 0))], row, NETWORK, fits=1)
    assert (found["d2d"], found["up"], found["down"]) == (16, 3000, 1000)
    assert found["seconds"] == pytest.approx(2 * 3.0 + 3 * 4 * 0.25)


def test_the_first_of_a_u_shape_computes_for_two_stages() -> None:
    row = roster("a", "b", "a")
    found = bill([share(1000.0), share(500.0)], row, NETWORK, fits=1)
    assert found["flops"] == 1500.0
    assert found["peak-bytes"] == 20
    assert found["seconds"] == pytest.approx(2 * 1.5 + 3 * 4 * 0.25)


def test_an_answer_crosses_every_cut_once_and_returns() -> None:
    found = bill([share(1000.0, batches=1)], roster("a", "b", "c"), NETWORK, fits=0)
    assert found["seconds"] == pytest.approx(2 * 1.0 + 3 * 0.25)


def test_one_stage_alone_waits_for_nobody() -> None:
    assert bill([share(1000.0)], roster("a"), NETWORK, fits=1)["seconds"] == pytest.approx(1.0)


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


def test_a_roster_survives_its_record() -> None:
    one = roster("a", EDGE, "b")
    assert Roster.from_record(one.to_record()) == one
