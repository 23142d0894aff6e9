"""Replicas become equal by suffixes, and a suffix that lacks or changes anything is refused."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.ledger import (
    Chains,
    LedgerError,
    check_receipt,
    countersign,
    follow,
    found,
    heads,
    key_of,
    packed,
    public_key,
    receive,
    suffix,
    sync,
    unpacked,
)
from mfd_flower.ledger.entry import MAX_MEMBERS
from mfd_flower.ledger.sync import LINE_CHARS
from tests.ledger.walks import after, example, lines, start, texts, tip_of
from tests.packets.memory import python_peak

FULL, LONG = example(10), example(30)


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
    new = receive(replica, text, head=tip_of(FULL).hash)
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
def test_a_tail_that_was_cut_off_is_noticed_by_the_head(kept: int) -> None:
    text = lines(*FULL.entries[:kept])
    assert refused(Chains(), text, head=tip_of(FULL).hash) == "cut-off"


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
    "text",
    [None, 7, b"x\n", "x", "\n", "é\n", "\ud800\n", FULL.entries[0].text],
)
def test_a_suffix_is_whole_lines_of_ascii(text: object) -> None:
    assert refused(Chains(), text) == "malformed"  # type: ignore[arg-type]


def test_a_suffix_of_line_feeds_is_refused_before_it_is_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would be hashed: 64 MiB of them, 65 kB packed, took 79 s to refuse."""
    hashed: list[str] = []
    monkeypatch.setattr(sync, "text_hash", hashed.append)
    for text in ("\n" * 100_000, FULL.entries[0].text + "\n" * 100_000):
        assert refused(Chains(), text) == "malformed"
    assert hashed == []


@given(entries=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_a_suffix_survives_packing(entries: int) -> None:
    text = lines(*LONG.entries[:entries])
    assert unpacked(packed(text)) == text
    assert unpacked(None) == ""


def test_the_largest_collaboration_set_and_the_longest_entry_survive_packing() -> None:
    digests = [hashlib.sha256(f"{node}".encode()).hexdigest() for node in range(MAX_MEMBERS)]
    everybody = {f"{node:064}": public for node, public in enumerate(digests)}
    key, name = key_of(0, "n0"), "9" * 64
    genesis = found(
        key, author=name, model_id="m" * 128, walker="w" * 32, version=digests[0],
        members={**dict(list(everybody.items())[1:]), name: public_key(key)},
    )  # fmt: skip
    chains = Chains()
    chains.extend([genesis.text])
    (tip,) = chains.tips.values()
    entry = follow(
        key, tip, author=name, kind="refusal", version=digests[1], subject="8" * 64,
        reason="~" * 200, receiver=max(everybody), receipt="0" * 128, hop=2**31 - 1,
        time_s=1.7976931348623157e308, samples=2**63 - 1, size_bytes=2**63 - 1,
        accuracy_before=1 / 3, accuracy_after=1 / 7,
    )  # fmt: skip
    assert len(entry.text) < LINE_CHARS
    text = lines(genesis, entry)
    assert unpacked(packed(text)) == text


def test_a_packed_bomb_is_refused_unpacked() -> None:
    bomb = zlib.compress(b"\n" * (1 << 26), 9)
    assert python_peak(lambda: refused_unpacked(bomb)) < 100 * len(bomb)
    whole = packed(lines(*FULL.entries))
    for data in (whole[:-1], whole + b"x", b"lines", "lines", 7, b"\xff", zlib.compress(b"\xff")):
        refused_unpacked(data)


def refused_unpacked(data: object) -> None:
    with pytest.raises(LedgerError, match=r"^lines = .*: must be"):
        unpacked(data)


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
    for entry_hash, receiver, told in wrong:
        with pytest.raises(LedgerError) as caught:
            check_receipt(tip, entry_hash, receiver, told)
        assert caught.value.reason == "receipt"
