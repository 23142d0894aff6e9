"""What a round of a pipeline takes, on numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import ConfigRecord
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network.world import EDGE, Transfer, World
from mfd_flower.runtime.member_links import MemberLinks, Reported
from mfd_flower.split.member import member_report
from mfd_flower.split.pipeline import StageResult
from mfd_flower.split.roster import Roster, seated

WORLD = World(
    NetworkConfig(up_bps=8e3, down_bps=16e3, d2d_bps=32e3, latency_s=0.25, flops_per_s=1000.0), 3
)


def roster(*members: str, micro_batches: int = 2) -> Roster:
    return Roster("m", 1, 0, members, tuple(range(1, len(members))), micro_batches)


def result(flops: float, *links: tuple[str, int, int], batches: int = 3) -> StageResult:
    return StageResult(flops, 10, links, batches)


def took_s(row: Roster, *results: StageResult, fits: int = 1, of: str = "n0") -> float:
    report = ConfigRecord({**member_report(results, row, fits=fits)})
    links = MemberLinks(WORLD, [Reported(of, report, 0.0)])
    compute_s = float(report["flops"]) / 1000.0  # type: ignore[arg-type]
    return compute_s + links.beside_s(of, report, compute_s, 0.0)


def test_the_slower_of_computing_and_sending_decides() -> None:
    ring = roster("n1", "n0", "n2")
    # 2 s of computing, filled and drained: (2 + 3 - 1) / 2 of it; 3 batches cross 2 cuts twice.
    computing = took_s(ring, result(2000.0, ("n1", 400, 400), ("n2", 800, 800)))
    assert computing == pytest.approx(2 * 2.0 + 3 * 4 * 0.25)
    # 16 kB towards n2 take 4 s.
    sending = took_s(ring, result(2000.0, ("n1", 400, 400), ("n2", 16000, 800)))
    assert sending == pytest.approx(2 * 4.0 + 3 * 4 * 0.25)


def test_links_to_the_edge_server_are_up_and_down() -> None:
    row = roster("n0", EDGE, "n1")
    found = result(0.0, (EDGE, 3000, 1000), ("n1", 16, 0))
    assert took_s(row, found) == pytest.approx(2 * 3.0 + 3 * 4 * 0.25)
    report = ConfigRecord({**member_report([found], row, fits=1)})
    billed = MemberLinks(WORLD, [Reported("n0", report, 0.0)]).billed_by("n0", report)
    # What the edge server sends nobody else tells of; what n1 sends, n1 does.
    assert [(t.link, size) for t, size, _ in billed] == [("up", 3000), ("down", 1000), ("d2d", 16)]


def test_the_first_of_a_u_shape_computes_for_two_stages() -> None:
    link, row = ("n1", 8, 8), roster("n0", "n1", "n0")
    found = member_report([result(1000.0, link), result(500.0, link)], row, fits=1)
    assert (found["flops"], found["peak-bytes"]) == (1500.0, 20)
    took = took_s(row, result(1000.0, link), result(500.0, link))
    assert took == pytest.approx(2 * 1.5 + 3 * 4 * 0.25)


def test_an_answer_crosses_every_cut_once_and_returns() -> None:
    row = roster("n0", "n1", "n2")
    found = took_s(row, result(1000.0, ("n1", 8, 0), ("n2", 0, 8), batches=1), fits=0)
    assert found == pytest.approx(2 * 1.0 + 3 * 0.25)


def test_one_stage_alone_waits_for_nobody() -> None:
    assert took_s(roster("n0"), result(1000.0)) == pytest.approx(1.0)


class Shared(World):
    """All that is sent at the same time shares 8 kbit/s, and n2 is out of reach."""

    shares = True
    patience_s = 3.0

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        return np.array([8e3 / len(transfers) * ("n2" not in each[:2]) for each in transfers])


def members(sent: int) -> list[Reported]:
    row = roster("n0", "n1")
    ends = {"n0": ("n1", sent, 0), "n1": ("n0", 0, sent)}
    reports = {name: member_report([result(0.0, link)], row, fits=1) for name, link in ends.items()}
    return [Reported(name, ConfigRecord({**found}), 0.0) for name, found in reports.items()]


def test_both_ends_tell_of_one_link_and_members_share_the_air() -> None:
    pair = members(1000)
    alone = MemberLinks(Shared(NetworkConfig(), 3), pair)
    # (2 + 2 - 1) / 2 of a second, and three batches that cross one cut twice, 10 ms late.
    expected = 1.5 * 1.0 + 3 * 2 * 0.01
    for name, report, _ in pair:
        assert alone.beside_s(name, report, 0.0, 0.0) == pytest.approx(expected)
    other = Reported("n3", ConfigRecord({**pair[0].report, "peers": ["n4"]}), 0.0)
    crowded = MemberLinks(Shared(NetworkConfig(), 5), [*pair, other])
    name, report, _ = pair[0]
    assert crowded.beside_s(name, report, 0.0, 0.0) == pytest.approx(1.5 * 2.0 + 3 * 2 * 0.01)


def test_a_link_that_breaks_is_told_by_its_ends() -> None:
    far = Reported("n0", ConfigRecord({**members(1000)[0].report, "peers": ["n2"]}), 0.0)
    links = MemberLinks(Shared(NetworkConfig(), 3), [*members(1000)[1:], far])
    assert links.broken("n0", far.report) == "n2"
    assert links.broken("n1", members(1000)[1].report) == ""


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
