"""Clusters as links come and go: as many as there can be, and never one that is broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flwr.app import MetricRecord, RecordDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mfd_flower.config import NetworkConfig
from mfd_flower.network.world import World
from mfd_flower.split.costs import BlockCosts
from mfd_flower.split.formation import Formation

NAMES = [f"n{node}" for node in range(6)]
POSSIBLE = ("01", "02", "13", "23", "34", "45", "25")
COSTS = BlockCosts((1.0, 1.0), (1.0, 1.0), (1.0,))


class Changing(World):
    """Links of each second are listed."""

    def __init__(self, links: list[set[frozenset[str]]]) -> None:
        super().__init__(NetworkConfig(), len(NAMES))
        self.links = links

    def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
        now = self.links[min(int(at_s), len(self.links) - 1)]
        return tuple(name for name in NAMES if frozenset((address, name)) in now)

    def next_change_s(self, at_s: float) -> float:
        return float(int(at_s) + 1)


class Nodes:
    """A grid whose nodes tell of two classes each; `there` may shrink and grow."""

    def __init__(self) -> None:
        self.nodes = list(NAMES)
        self.virtual_seconds = 0.0
        self.asked: list[str] = []

    def ask(
        self, kind: str, contents: Mapping[str, RecordDict], timeout: float
    ) -> dict[str, RecordDict]:
        assert kind == "query.labels"
        self.asked += contents
        counts = MetricRecord({"label-counts": [5.0, 5.0]})
        return {name: RecordDict({"labels": counts}) for name in contents}

    def wait_until(self, at_s: float) -> None:
        self.virtual_seconds = at_s


def formed(world: World, number: int = 2) -> Formation:
    return Formation(world, number, 2, by_plan=True, costs_of=lambda _: COSTS)


def pairs(*texts: str) -> set[frozenset[str]]:
    return {frozenset((f"n{text[0]}", f"n{text[1]}")) for text in texts}


def test_a_second_cluster_forms_once_links_allow_it() -> None:
    world, grid = Changing([pairs("01"), pairs("01", "23")]), Nodes()
    formation = formed(world)
    formation.form(grid, 1.0)
    assert [{*cluster} for cluster in formation.clusters] == [{"n0", "n1"}]
    grid.virtual_seconds = 1.0
    formation.renew(grid, 1.0)
    assert {frozenset(cluster) for cluster in formation.clusters} == pairs("01", "23")
    assert {*formation.idle} == {"n4", "n5"}
    # Nobody tells twice what he has.
    assert sorted(grid.asked) == NAMES


def test_whole_clusters_stay_as_they_are() -> None:
    world, grid = Changing([pairs("01", "23"), pairs("01", "02", "23", "13")]), Nodes()
    formation = formed(world)
    formation.form(grid, 1.0)
    before = [list(cluster) for cluster in formation.clusters]
    grid.virtual_seconds = 1.0
    formation.renew(grid, 1.0)
    assert formation.clusters == before


@example([{"13", "02", "01"}, {"13", "02", "01"}], 1, ["n0"])
@given(
    st.lists(st.sets(st.sampled_from(POSSIBLE)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
)
@settings(deadline=None, max_examples=200)
def test_members_are_there_and_reach_each_other(
    linked: list[set[str]], number: int, gone: list[str]
) -> None:
    links = [pairs(*each) for each in linked]
    world, grid = Changing(links), Nodes()
    formation = formed(world, number)
    formation.form(grid, 1.0)
    for at_s in range(len(links)):
        grid.virtual_seconds = float(at_s)
        formation.renew(grid, 1.0)
        there = [*formation.idle, *(name for each in formation.clusters for name in each)]
        assert sorted(there) == sorted(grid.nodes)
        assert 1 <= len(formation.clusters) <= number
        for cluster in formation.clusters:
            assert all(frozenset(pair) in links[at_s] for pair in _rings(cluster))
        grid.nodes = [name for name in NAMES if name not in gone]


def _rings(cluster: list[str]) -> Iterator[tuple[str, str]]:
    ends = zip(cluster, [*cluster[1:], cluster[0]], strict=True)
    return (pair for pair in ends if pair[0] != pair[1])
