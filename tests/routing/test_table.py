"""The routing table: newest sequence wins, nothing stale stays, the vanished stay away."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.routing import Advert, AdvertError, Candidate, RoutingTable

ADVERT = Advert("n1", (3.0, 1.0), samples=4, sequence=5, lifetime_s=10.0, hops_left=2)
addresses = st.sampled_from([f"n{i}" for i in range(5)])
announcements = st.lists(
    st.builds(
        Advert,
        address=addresses,
        sequence=st.integers(0, 6),
        lifetime_s=st.sampled_from([1.0, 5.0, 20.0, math.inf]),
        hops_left=st.integers(0, 3),
    ),
    max_size=30,
)


def newest(adverts: list[Advert]) -> dict[str, int]:
    """Return the largest sequence number of each address, the owner's left out."""
    largest: dict[str, int] = {}
    for advert in adverts:
        if advert.address != "n0":
            largest[advert.address] = max(advert.sequence, largest.get(advert.address, -1))
    return largest


def sequences(table: RoutingTable) -> dict[str, int]:
    records = table.entries().items()
    return {a: Advert.from_text(r["advert"]).sequence for a, r in records if "advert" in r}


def test_a_new_advert_is_stored_and_passed_on_with_a_hop_less() -> None:
    table = RoutingTable("n0")
    assert table.receive(ADVERT, 0.0, via="n7", link_bps=1e6) == replace(ADVERT, hops_left=1)
    assert table.receive(replace(ADVERT, sequence=6, hops_left=0), 1.0, "n1", 1e6) is None
    assert table.neighbours == ["n1"]
    assert len(table) == 1


def test_own_expired_old_and_repeated_adverts_are_not_passed_on() -> None:
    table = RoutingTable("n0")
    table.receive(ADVERT, 0.0, "n1", 1e6)
    for refused in (
        replace(ADVERT, address="n0"),
        replace(ADVERT, address="n2", lifetime_s=0.0),
        replace(ADVERT, sequence=4),
        ADVERT,
    ):
        assert table.receive(refused, 1.0, "n1", 1e6) is None
    assert sequences(table) == {"n1": 5}


def test_a_better_path_replaces_a_worse_one_but_not_the_reverse() -> None:
    """Fewer hops first, then the faster link; only what reaches further is passed on again."""
    table = RoutingTable("n0")

    def link_bps() -> float:
        return table.candidates(0.0)[0].link_bps

    table.receive(replace(ADVERT, hops_left=1), 0.0, "n8", 1e6)
    assert table.receive(replace(ADVERT, hops_left=1), 0.0, "n9", 5e6) is None
    assert link_bps() == 5e6
    assert table.receive(ADVERT, 0.0, "n1", 2e6) == replace(ADVERT, hops_left=1)
    assert link_bps() == 2e6
    table.receive(replace(ADVERT, hops_left=1), 0.0, "n9", 9e6)
    assert link_bps() == 2e6


def test_copies_do_not_prolong_an_advert() -> None:
    table = RoutingTable("n0")
    table.receive(ADVERT, 0.0, "n8", 1e6)
    table.receive(ADVERT, 9.0, "n9", 2e6)
    assert table.expire(9.9) == []
    assert table.expire(10.0) == ["n1"]
    assert table.receive(ADVERT, 11.0, "n9", 3e6) is None
    assert len(table) == 0


@given(adverts=announcements, order=st.randoms(use_true_random=False))
def test_newest_sequence_wins_whatever_the_order(adverts: list[Advert], order: Random) -> None:
    shuffled = adverts.copy()
    order.shuffle(shuffled)
    table = RoutingTable("n0")
    for advert in shuffled:
        table.receive(advert, 0.0, "n9", 1e6)
    assert sequences(table) == newest(adverts)
    assert len(table) == len(newest(adverts))


@given(
    adverts=announcements,
    gaps=st.lists(st.floats(0, 8), min_size=30, max_size=30),
    sweeps=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_after_expiry_exactly_the_valid_remain(
    adverts: list[Advert], gaps: list[float], sweeps: list[bool]
) -> None:
    """Against a plain model: an address is known until its newest advert's time is over."""
    table, ends, heard, now = RoutingTable("n0"), {}, {}, 0.0
    for advert, gap, sweep in zip(adverts, gaps, sweeps, strict=False):
        now += gap
        if sweep:
            overdue = {a for a, end in ends.items() if end <= now}
            assert set(table.expire(now)) == overdue
            ends = {a: end for a, end in ends.items() if end > now}
        table.receive(replace(advert, hops_left=0), now, "n9", 1e6)
        if advert.address != "n0" and advert.sequence > heard.get(advert.address, -1):
            heard[advert.address] = advert.sequence
            ends[advert.address] = now + advert.lifetime_s
        valid = {a for a, end in ends.items() if end > now}
        assert {c.address for c in table.candidates(now)} == valid


@given(before=announcements, after=announcements, gone=addresses)
def test_a_dropped_node_stays_out_until_a_newer_sequence(
    before: list[Advert], after: list[Advert], gone: str
) -> None:
    table = RoutingTable("n0")
    for advert in before:
        table.receive(advert, 0.0, "n9", 1e6)
    last = newest(before).get(gone, -1)
    table.drop(gone)
    assert gone not in table
    for advert in after:
        table.receive(advert, 0.5, "n9", 9e6)
    expected = newest(after).get(gone, -1)
    assert (gone in table) == (expected > last)
    assert sequences(table).get(gone, last) == max(last, expected)


def test_each_announcement_holds_for_its_lifetime_and_one_without_end_for_ever() -> None:
    table = RoutingTable("n0")
    for sequence in range(1000):
        table.receive(replace(ADVERT, sequence=sequence), float(sequence), "n1", 1e6)
        assert table.expire(float(sequence)) == []
    table.receive(Advert("n2"), 0.0, "n2", 1e6)
    assert table.expire(1008.9) == []
    assert table.expire(1009.0) == ["n1"]
    assert [c.address for c in table.candidates(1e300)] == ["n2"]
    records = {address: ConfigRecord(r) for address, r in table.entries().items()}
    again = RoutingTable.from_entries("n0", records)
    assert again.expire(1e300) == []
    assert [c.address for c in again.candidates(1e300)] == ["n2"]


def test_candidates_are_ordered_by_address_and_complete() -> None:
    table = RoutingTable("n0")
    for name in ("n10", "n2", "n1"):
        advert = replace(ADVERT, address=name, flops_per_s=2e9, degree=3, interest=0.5)
        table.receive(advert, 0.0, name, 1e6)
    known = table.candidates(1.0, {"n2": 7})
    assert known == [
        Candidate("n1", (3.0, 1.0), 4, 2e9, 1e6, 3, 0.5, -1),
        Candidate("n2", (3.0, 1.0), 4, 2e9, 1e6, 3, 0.5, 7),
        Candidate("n10", (3.0, 1.0), 4, 2e9, 1e6, 3, 0.5, -1),
    ]
    assert table.neighbours == ["n1", "n2", "n10"]


@given(adverts=announcements, gone=addresses)
def test_a_table_survives_its_records(adverts: list[Advert], gone: str) -> None:
    """As Flower records: same entries, same expiry, and what was dropped stays dropped."""
    table = RoutingTable("n0")
    for advert in adverts:
        table.receive(advert, 0.0, advert.address, 1e6)
    table.drop(gone)
    records = {address: ConfigRecord(r) for address, r in table.entries().items()}
    again = RoutingTable.from_entries("n0", records)
    assert again.entries() == table.entries()
    for advert in adverts:
        again.receive(advert, 0.5, "n9", 1e6)
    assert gone not in again
    assert sorted(again.expire(5.0)) == sorted(table.expire(5.0))


def test_a_record_that_is_no_entry_is_refused() -> None:
    how = {"via": "n1", "link_bps": 1e6, "expires_s": 9.0}
    records = [
        ({"advert": ADVERT.to_text()}, "via"),
        ({"advert": ADVERT.to_text(), **how, "via": ""}, "via"),
        ({"advert": ADVERT.to_text(), **how, "link_bps": math.inf}, "link_bps"),
        ({"advert": ADVERT.to_text(), **how, "expires_s": math.nan}, "expires_s"),
        ({"advert": '{"a":"n1","n":-1}', **how}, "samples"),
        ({"sequence": -3}, "sequence"),
        (how, "advert"),
        ({"advert": ["n1"], **how}, "advert"),
    ]
    for record, name in records:
        with pytest.raises(AdvertError, match=rf"^advert\.{name} = "):
            RoutingTable.from_entries("n0", {"n1": record})


def test_what_was_reached_through_an_unreachable_neighbour_is_gone_until_announced_again() -> None:
    table = RoutingTable("n0")
    near, far = Advert("n1"), Advert("n5")
    table.receive(near, 0.0, "n1", 1e6)
    table.receive(far, 0.0, "n1", 1e6)
    table.receive(Advert("n2"), 0.0, "n2", 1e6)
    table.unreachable("n1")
    assert [c.address for c in table.candidates(0.0)] == ["n2"]
    # Behind the neighbour nobody failed: the same announcement over another path brings it back.
    table.receive(far, 1.0, "n2", 1e6)
    table.receive(near, 1.0, "n2", 1e6)
    assert {c.address: table.via(c.address) for c in table.candidates(1.0)} == {
        "n2": "n2",
        "n5": "n2",
    }
