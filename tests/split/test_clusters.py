"""Cluster planning against all plans there are, and cases worked out by hand."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.split.clusters import Cluster, Member, data_value, plan_clusters
from mfd_flower.split.cuts import plan_cuts
from tests.split.test_cuts import stages_and_links

Links = dict[str, dict[str, float]]


def members_of(speeds: list[float], samples: list[int] | None = None) -> list[Member]:
    """Return members n0, n1... with 100 bytes each and, if not told, 100 samples."""
    amounts = samples or [100] * len(speeds)
    return [
        Member(f"n{i}", speed, 100, (amount,))
        for i, (speed, amount) in enumerate(zip(speeds, amounts, strict=True))
    ]


def linked(pairs: Iterator[tuple[int, int]] | list[tuple[int, int]], bps: float = 8.0) -> Links:
    links: Links = {}
    for a, b in pairs:
        links.setdefault(f"n{a}", {})[f"n{b}"] = bps
        links.setdefault(f"n{b}", {})[f"n{a}"] = bps
    return links


def everybody(count: int) -> Links:
    return linked(itertools.combinations(range(count), 2))


def ring(count: int) -> Links:
    return linked([(i, (i + 1) % count) for i in range(count)])


def seconds_per_value(clusters: list[Cluster], members: list[Member]) -> float:
    values = {member.address: data_value(member.label_counts) for member in members}
    fed = sum(values[cluster.addresses[0]] for cluster in clusters)
    return max(cluster.step_s for cluster in clusters) / fed


def check(clusters: list[Cluster], members: list[Member], links: Links, asked: dict) -> None:
    """Hold a plan against every requirement that it was made under."""
    known = {member.address: member for member in members}
    names = [address for cluster in clusters for address in cluster.addresses]
    assert len(set(names)) == len(names)
    for cluster in clusters:
        row = cluster.addresses
        steps = [*itertools.pairwise(row), *([(row[-1], row[0])] * asked.get("closed", False))]
        assert all(a == b or (b in links[a] and a in links[b]) for a, b in steps)
        assert any(known[row[0]].label_counts)
        assert cluster.step_s == pytest.approx(step_seconds([known[a] for a in row], links, asked))


def step_seconds(row: Sequence[Member], links: Links, asked: dict) -> float:
    """Return the step of a row under its best cuts; ConfigError if its blocks do not fit."""
    names = [member.address for member in row]
    cut_bytes, memory = asked.get("cut_bytes"), asked.get("memory")
    rates = [min(links[a][b], links[b][a]) for a, b in itertools.pairwise(names)]
    speeds, limits = [m.flops_per_s for m in row], [m.memory_bytes for m in row]
    limited = {} if memory is None else {"memory": memory, "limits": limits}
    sent = {} if cut_bytes is None else {"cut_bytes": cut_bytes, "link_bps": rates}
    cuts = plan_cuts(asked["costs"], speeds, **limited, **sent)
    seconds = stages_and_links(tuple(cuts), asked["costs"], speeds, **limited, **sent)
    assert seconds is not None
    return max(seconds)


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Member], Links, dict]:
    """Return up to 6 members, linked at random, for clusters of 2 or 3 and a model of 4 blocks."""
    count = draw(st.integers(3, 6))
    size = draw(st.integers(2, 3))
    members = [
        Member(
            f"n{i}",
            draw(st.sampled_from([1.0, 2.0, 5.0])),
            draw(st.sampled_from([20.0, 30.0])),
            draw(st.sampled_from([(), (0.0, 0.0), (25.0, 25.0), (180.0, 20.0)])),
        )
        for i in range(count)
    ]
    rates = st.sampled_from([0.0, 4.0, 8.0, 80.0])
    pairs = {pair: draw(rates) for pair in itertools.permutations(range(count), 2)}
    links: Links = {member.address: {} for member in members}
    for (a, b), rate in pairs.items():
        if rate:
            links[f"n{a}"][f"n{b}"] = rate
    asked = {
        "size": size,
        "number": draw(st.integers(1, count // size)),
        "closed": draw(st.booleans()),
        "costs": [3, 1, 1, 2],
        "memory": [10, 10, 10, 10],
        "cut_bytes": [2, 1, 2],
    }
    return members, links, asked


def every_plan(members: list[Member], links: Links, asked: dict) -> Iterator[list[Cluster]]:
    """Cut every arrangement of members into rows; yield those whose rows can all run."""
    size, number = asked["size"], asked["number"]
    rows: dict[tuple[Member, ...], Cluster] = {}
    for row in itertools.permutations(members, size):
        names = [member.address for member in row]
        steps = [*itertools.pairwise(names), *([(names[-1], names[0])] * asked["closed"])]
        if not any(row[0].label_counts) or not all(
            b in links[a] and a in links[b] for a, b in steps
        ):
            continue
        with contextlib.suppress(ConfigError):
            rows[row] = Cluster(tuple(names), step_seconds(row, links, asked))
    for plan in itertools.combinations(rows.items(), number):
        if len({member.address for row, _ in plan for member in row}) == size * number:
            yield [cluster for _, cluster in plan]


@settings(max_examples=60, deadline=None)
@given(instances())
def test_exact_is_the_best_plan_there_is(instance: tuple[list[Member], Links, dict]) -> None:
    members, links, asked = instance
    values = [seconds_per_value(plan, members) for plan in every_plan(members, links, asked)]
    if not values:
        with pytest.raises(ConfigError, match=r"clusters = \d: no such clusters of"):
            plan_clusters(members, links, **asked, solver="exact")
        return
    found = plan_clusters(members, links, **asked, solver="exact")
    check(found, members, links, asked)
    assert len(found) == asked["number"]
    assert seconds_per_value(found, members) == pytest.approx(min(values))


@settings(max_examples=10, deadline=None)
@given(instances())
def test_local_search_keeps_to_the_requirements(
    instance: tuple[list[Member], Links, dict],
) -> None:
    """Whatever it finds can run, is found again, and is no better than exact."""
    members, links, asked = instance
    try:
        found = plan_clusters(members, links, **asked, solver="local-search")
    except ConfigError:
        return
    check(found, members, links, asked)
    assert found == plan_clusters(members, links, **asked, solver="local-search")
    best = plan_clusters(members, links, **asked, solver="exact")
    assert seconds_per_value(found, members) >= seconds_per_value(best, members) * (1 - 1e-9)


def test_local_search_is_near_exact() -> None:
    """12 members of lognormal speed and data, anybody with anybody, two clusters of 4."""
    rng = np.random.default_rng(5)
    speeds, samples = rng.lognormal(0, 0.8, 12).tolist(), rng.integers(0, 300, 12).tolist()
    members, links = members_of(speeds, samples), everybody(12)
    near, best = (
        seconds_per_value(
            plan_clusters(members, links, number=2, size=4, costs=[1] * 12, solver=solver), members
        )
        for solver in ("local-search", "exact")
    )
    assert near <= 1.02 * best


def test_strong_and_weak_share() -> None:
    """Speeds 3, 3, 1, 1 and four like blocks: in mixed pairs everybody computes for one second."""
    found = plan_clusters(members_of([3, 3, 1, 1]), everybody(4), number=2, size=2, costs=[1] * 4)
    assert [cluster.step_s for cluster in found] == [1, 1]
    for cluster in found:
        assert len({"n0", "n1"} & set(cluster.addresses)) == 1


def test_the_slow_stay_idle_if_they_may() -> None:
    members = members_of([1, 9, 9, 1, 9, 9])
    found = plan_clusters(members, everybody(6), number=2, size=2, costs=[1] * 4)
    assert {a for cluster in found for a in cluster.addresses} == {"n1", "n2", "n4", "n5"}


def test_a_row_follows_the_links() -> None:
    """On a path only the two ends can be first."""
    found = plan_clusters(
        members_of([1] * 4), linked([(2, 0), (0, 3), (3, 1)]), number=1, size=4, costs=[1] * 4
    )
    assert found[0].addresses in {("n2", "n0", "n3", "n1"), ("n1", "n3", "n0", "n2")}


def test_more_and_more_even_data_is_put_first() -> None:
    for counts, order in ((((10,), (400,)), ("n1", "n0")), (((50, 50), (99, 1)), ("n0", "n1"))):
        pair = [Member(f"n{i}", 1, 1, each) for i, each in enumerate(counts)]
        (found,) = plan_clusters(pair, everybody(2), number=1, size=2, costs=[1, 1])
        assert found.addresses == order


def test_data_is_worth_a_slower_step() -> None:
    """n2 is half as fast as n1, with far more than twice the data value: 400/500 to 10/110."""
    members = members_of([1, 1, 0.5], [10, 10, 400])
    found = plan_clusters(members, everybody(3), number=1, size=2, costs=[1, 1])[0]
    assert (found.addresses[0], found.step_s) == ("n2", 2)


def test_data_value_by_hand() -> None:
    """100 samples count half; two of four classes, evenly, count half."""
    assert data_value((50, 50, 0, 0)) == pytest.approx(1 / 4)
    assert data_value((100,)) == pytest.approx(1 / 2)
    assert data_value((0, 0)) == data_value(()) == 0


def test_a_slow_link_is_avoided() -> None:
    """Cut bytes of 1 take 8 s over 1 bit/s and 1 s over 8 bit/s."""
    links = everybody(4)
    links["n0"]["n1"] = links["n2"]["n3"] = 1.0
    found = plan_clusters(members_of([1] * 4), links, number=2, size=2, costs=[1, 1], cut_bytes=[1])
    assert [cluster.step_s for cluster in found] == [1, 1]


def test_closed_rows_need_a_link_back() -> None:
    triangle, path = ring(3), linked([(0, 1), (1, 2)])
    members = members_of([1, 1, 1])
    asked = {"number": 1, "size": 3, "costs": [1] * 3}
    assert plan_clusters(members, triangle, **asked, closed=True)
    assert plan_clusters(members, path, **asked)
    with pytest.raises(
        ConfigError, match="2 pairs of 3 members are linked, 3 members have samples"
    ):
        plan_clusters(members, path, **asked, closed=True)


@pytest.mark.parametrize("count", [12, 24])
def test_local_search_fits_rows_onto_a_ring(count: int) -> None:
    """Only rows that lie end to end leave nobody out."""
    members, links = members_of([1] * count), ring(count)
    asked = {"number": count // 4, "size": 4, "costs": [1] * 4}
    found = plan_clusters(members, links, **asked, solver="local-search")
    check(found, members, links, asked)
    assert len(found) == count // 4


def test_who_is_there_decides_and_not_in_which_order() -> None:
    members = members_of([1, 2, 3, 4, 5, 6], [10, 60, 30, 50, 20, 40])
    plans = [
        plan_clusters(order, everybody(6), number=2, size=3, costs=[2, 3, 1, 4])
        for order in (members, members[::-1])
    ]
    one, other = (seconds_per_value(plan, members) for plan in plans)
    assert one == pytest.approx(other)


def test_a_cluster_without_its_failed_member_takes_an_idle_one() -> None:
    """Links may go on naming the one that failed."""
    members, links = members_of([4, 3, 2, 1, 1]), everybody(5)
    before = plan_clusters(members, links, number=2, size=2, costs=[1] * 4)
    hit = next(cluster for cluster in before if "n0" in cluster.addresses)
    kept = {a for cluster in before if cluster != hit for a in cluster.addresses}
    rest = [m for m in members if m.address not in kept | {"n0"}]
    after = plan_clusters(rest, links, number=1, size=2, costs=[1] * 4)[0]
    assert set(after.addresses) <= {m.address for m in rest}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 5}, "size = 5: 1 to 4, at least one block a member"),
        ({"size": 0}, "size = 0: 1 to 4, at least one block a member"),
        ({"number": 3}, "clusters = 3: 1 to 2 clusters of 2 from 4 members"),
        ({"number": 0}, "clusters = 0: 1 to 2 clusters of 2 from 4 members"),
        ({"costs": [1, 1, 1, math.nan]}, "costs[3] = nan: must be finite and at least 0"),
        (
            {"members": members_of([1, 1, 0, 1])},
            "flops_per_s[2] = 0: must be finite and above 0",
        ),
        (
            {"members": members_of([1] * 17), "solver": "exact"},
            "solver = 'exact': too many members: 17, in clusters of 2",
        ),
        (
            {"links": linked([(0, 1), (0, 2), (0, 3)])},
            "clusters = 2: no such clusters of 2 found: 3 pairs of 4 members are linked,"
            " 4 members have samples, all blocks need 0 bytes",
        ),
        (
            {"members": members_of([1] * 4, [0, 0, 5, 0]), "solver": "local-search"},
            "clusters = 2: no such clusters of 2 found: 6 pairs of 4 members are linked,"
            " 1 members have samples, all blocks need 0 bytes",
        ),
        (
            {"memory": [60] * 4},
            "clusters = 2: no such clusters of 2 found: 6 pairs of 4 members are linked,"
            " 4 members have samples, all blocks need 240 bytes",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: dict, message: str) -> None:
    good = {"members": members_of([1] * 4), "links": everybody(4), "number": 2, "size": 2}
    good["costs"] = [1] * 4
    with pytest.raises(ConfigError) as error:
        plan_clusters(**(good | arguments))
    assert str(error.value) == message
