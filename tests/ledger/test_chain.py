"""What a chain takes and what it refuses, by name; many walkers, merges, refusals, members."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from mfd_flower.ledger import Chains, LedgerError, countersign, follow, key_of, new_key
from mfd_flower.ledger import public_key as public
from tests.ledger.walks import after, digest, example, refused, resigned, start, texts, tip_of

WALK = texts(example(9))
N4 = public(key_of(0, "n4"))


def test_every_single_bit_is_covered() -> None:
    """Any bit of any entry: the altered entry itself is found, whatever follows it."""
    cases = 0
    for number, text in enumerate(WALK):
        raw, known = text.encode(), Chains(WALK[:number])
        for byte, bit in itertools.product(range(len(raw)), range(8)):
            altered = bytearray(raw)
            altered[byte] ^= 1 << bit
            error = refused(known, altered.decode("latin-1"), *WALK[number + 1 : number + 2])
            assert error.entry == 0
            cases += 1
    assert cases > 39_000


def test_removals_swaps_and_replays_are_named() -> None:
    """Every removal but that of the tail, every swap and every repetition, in a sequence read."""
    cases = 0
    for first in range(9):
        for second in range(first + 1, 9):
            swapped = list(WALK)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            error = refused(Chains(), *swapped)
            assert (error.reason, error.entry) == ("order", first)
            cases += 1
        gone = WALK[:first] + WALK[first + 1 :]
        if first < 8:
            error = refused(Chains(), *gone)
            assert (error.reason, error.entry) == ("missing", first)
        for place in range(first + 1, 10):
            again = [*WALK[:place], WALK[first], *WALK[place:]]
            error = refused(Chains(), *again)
            assert (error.reason, error.entry) == ("replay", place)
            cases += 1
    assert cases == 36 + 45


def test_every_reordering_is_refused() -> None:
    rng = random.Random(1)
    for _ in range(400):
        order = list(range(5))
        rng.shuffle(order)
        if order == sorted(order):
            continue
        error = refused(Chains(), *(WALK[place] for place in order))
        first = next(i for i, place in enumerate(order) if i != place)
        assert (error.reason, error.entry) == ("order", first)


def test_a_stranger_is_refused_by_name() -> None:
    chains = example(3)
    tip = tip_of(chains)
    stranger = follow(new_key(), tip, author="n9", version=digest("x"))
    with_other_key = follow(new_key(), tip, author="n1", version=digest("x"))
    by_another = resigned(after(tip, "n1"), signer="n2")
    unsigned = dataclasses.replace(after(tip, "n1"), signature="0" * 128)
    found = [
        refused(chains, e.text).reason for e in (stranger, with_other_key, by_another, unsigned)
    ]
    assert found == ["unknown-author", "wrong-key", "altered", "altered"]


def test_the_first_version_cannot_be_refused() -> None:
    chains = example(1)
    tip = tip_of(chains)
    entry = after(tip, "n1", kind="refusal", version=tip.version, subject="n0", reason="bad")
    assert refused(chains, entry.text).reason == "parent"


def test_a_suffix_with_one_bad_entry_leaves_nothing_behind() -> None:
    chains = Chains(WALK[:3])
    bad = WALK[5].replace('"n1"', '"n2"')
    error = refused(chains, WALK[3], WALK[4], bad)
    assert error.entry == 2
    chains.extend(WALK[3:])
    assert texts(chains) == WALK


def test_entries_in_pieces_are_entries_at_once() -> None:
    for cut in range(10):
        chains = Chains()
        chains.extend(WALK[:cut])
        chains.extend(WALK[cut:])
        assert (texts(chains), chains.tips) == (WALK, example(9).tips)


def test_who_left_may_not_write_and_who_joined_may() -> None:
    chains = example(4)
    assert "n4" in tip_of(chains).members
    assert refused(example(3), after(tip_of(example(3)), "n4").text).reason == "unknown-author"
    chains.extend([after(tip_of(chains), "n4").text])
    chains.extend([after(tip_of(chains), "n4", kind="leave", subject="n4").text])
    assert refused(chains, after(tip_of(chains), "n4").text).reason == "unknown-author"


def test_a_new_key_after_rejoining_ends_the_old_one() -> None:
    """How the founder withdraws a stolen key."""
    chains, fresh = example(4), new_key()
    chains.extend([after(tip_of(chains), "n0", kind="leave", subject="n4").text])
    joined = {"kind": "join", "subject": "n4", "subject_key": public(fresh)}
    chains.extend([after(tip_of(chains), "n0", **joined).text])
    assert refused(chains, after(tip_of(chains), "n4").text).reason == "wrong-key"
    chains.extend([follow(fresh, tip_of(chains), author="n4", version=digest("x")).text])
    assert tip_of(chains).version == digest("x")


def test_a_refused_version_is_followed_by_its_parent() -> None:
    chains = example(7)
    bad, refusal = chains.entries[5], chains.entries[6]
    assert (refusal.version, refusal.subject) == (bad.version, bad.author)
    assert tip_of(chains).version == bad.parents[0]
    chains.extend([after(tip_of(chains), "n3").text])
    path = [entry.version for entry in chains.trace(tip_of(chains).version)]
    assert bad.version not in path
    assert [entry.version for entry in chains.trace(bad.version)][1:] == path[1:]


def test_a_trace_leads_from_version_to_parent_down_to_the_first() -> None:
    chains = example(30)
    path = chains.trace(tip_of(chains).version)
    assert path[-1].kind == "genesis"
    for child, parent in itertools.pairwise(path):
        assert child.parents[0] == parent.version
    with pytest.raises(LedgerError, match="not in this ledger"):
        chains.trace(digest("never made"))


def test_walkers_have_chains_of_their_own_and_merge() -> None:
    chains = Chains()
    chains.extend([start().text, start("w1").text])
    for walker, author in (("w0", "n1"), ("w1", "n2"), ("w1", "n3"), ("w0", "n0")):
        chains.extend([after(tip_of(chains, walker), author).text])
    both = (tip_of(chains).version, tip_of(chains, "w1").version)
    merge = after(tip_of(chains), "n3", parents=both)
    alone = Chains(text.text for text in chains.entries if text.walker == "w0")
    assert refused(alone, merge.text).reason == "parent"
    chains.extend([merge.text])
    assert chains.trace(merge.version)[0].parents == both
    # The chains of two walkers may be stored in any order, as long as parents come first.
    by_chain = sorted(chains.entries, key=lambda entry: (entry.walker == "w0", entry.place))
    again = Chains()
    again.extend([entry.text for entry in by_chain])
    assert again.tips == chains.tips


def test_a_packet_sent_elsewhere_after_a_receiver_was_lost_is_no_fork() -> None:
    """n2 took the packet over, signed for it and was lost; the holder sends it to n3."""
    chains = example(3)
    tip = tip_of(chains)
    receipt = countersign(key_of(0, "n0"), tip.hash, "n0")
    chains.extend([after(tip, "n3", receiver="n0", receipt=receipt).text])
    assert chains.entries[-1].receiver == "n0"


def test_only_the_expected_founders_are_believed() -> None:
    ours = dict(start().members)
    Chains(members=ours).extend([start().text])
    assert refused(Chains(members=ours), start(nodes=5).text).reason == "members"
