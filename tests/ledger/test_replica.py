"""Replicas become equal by suffixes, and a suffix that lacks or changes anything is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.ledger import (
    Chains,
    LedgerError,
    check_receipt,
    countersign,
    heads,
    key_of,
    receive,
    suffix,
)
from tests.ledger.walks import after, example, lines, start, texts, tip_of

FULL = example(10)


def refused(chains: Chains, text: str, **known: object) -> str:
    before = (texts(chains), dict(chains.tips))
    with pytest.raises(LedgerError) as caught:
        receive(chains, text, **known)  # type: ignore[arg-type]
    assert (texts(chains), chains.tips) == before
    return caught.value.reason


@given(here=st.integers(0, 10), announced=st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_a_suffix_makes_replicas_equal(here: int, announced: int) -> None:
    """Whatever head was announced: entries that the receiver had before are passed over."""
    replica = Chains(texts(FULL)[:here])
    since = FULL.entries[announced - 1].hash if announced else None
    text = suffix(FULL, since)
    assert text.count("\n") == 10 - announced
    if announced > here:
        reason = "missing" if text else "cut-off"
        assert refused(replica, text, head=tip_of(FULL).hash) == reason
        return
    new = receive(replica, text, head=tip_of(FULL).hash, announced=heads(FULL))
    assert new == FULL.entries[here:]
    assert (texts(replica), replica.tips) == (texts(FULL), FULL.tips)


def test_walkers_that_took_other_ways_are_told_apart_by_their_heads() -> None:
    one = Chains()
    one.extend([start().text, start("w1").text, start("w2").text])
    other = Chains(texts(one))
    for author in ("n1", "n2"):
        one.extend([after(tip_of(one), author).text])
        other.extend([after(tip_of(other, "w1"), author).text])
    for_other, for_one = suffix(one, heads(other)), suffix(other, heads(one))
    assert for_other == lines(*one.entries[3:])
    receive(other, for_other)
    receive(one, for_one)
    assert heads(one) == heads(other)
    assert suffix(one, heads(other)) == ""


@pytest.mark.parametrize("kept", range(10))
def test_a_tail_that_was_cut_off_is_noticed_by_an_announced_head(kept: int) -> None:
    text = lines(*FULL.entries[:kept])
    assert refused(Chains(), text, head=tip_of(FULL).hash) == "cut-off"
    assert refused(Chains(), text, announced=heads(FULL)) == "cut-off"


@pytest.mark.parametrize("old", range(9))
def test_an_old_packet_is_noticed_by_its_head(old: int) -> None:
    chains = Chains(texts(FULL))
    text = lines(*FULL.entries[: old + 1])
    assert refused(chains, text, head=FULL.entries[old].hash) == "replay"
    assert receive(chains, text) == []


def test_two_branches_are_a_fork_wherever_they_meet() -> None:
    left, right = example(3), example(3)
    left.extend([after(tip_of(left), "n1").text])
    right.extend([after(tip_of(right), "n2").text])
    right.extend([after(tip_of(right), "n3").text])
    assert refused(left, suffix(right)) == "fork"
    assert refused(right, suffix(left)) == "fork"
    # Neither knows the other's head, so that alone shows only that something is amiss.
    known = suffix(right, heads(left))
    assert refused(left, known, head=tip_of(right).hash) == "cut-off"


@pytest.mark.parametrize(
    "text", [None, 7, b"x\n", "x", "\n", "é\n", "\ud800\n", FULL.entries[0].text]
)
def test_a_suffix_is_whole_lines_of_ascii(text: object) -> None:
    assert refused(Chains(), text) == "malformed"  # type: ignore[arg-type]


def test_a_sender_keeps_a_receipt_that_nobody_else_can_write() -> None:
    chains = example(3)
    tip, key = tip_of(chains), key_of(0, "n3")
    receipt = countersign(key, tip.hash, "n3")
    check_receipt(tip, tip.hash, "n3", receipt)
    wrong = [
        (tip.hash, "n2", receipt),
        (chains.entries[0].hash, "n3", receipt),
        (tip.hash, "n9", countersign(key_of(0, "n9"), tip.hash, "n9")),
        (tip.hash, "n3", countersign(key, tip.hash, "n2")),
        (tip.hash, "n3", chains.entries[-1].signature),
        (tip.hash, "n3", "not hexadecimal"),
        (tip.hash, "n3", None),
    ]
    for entry_hash, receiver, found in wrong:
        with pytest.raises(LedgerError) as caught:
            check_receipt(tip, entry_hash, receiver, found)
        assert caught.value.reason == "receipt"
