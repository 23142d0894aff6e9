"""Each lie that a member can sign is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mfd_flower.ledger import Chains, Entry, countersign, key_of, new_key
from mfd_flower.ledger import public_key as public
from tests.ledger.walks import after, digest, example, refused, resigned, start, tip_of

LIES: dict[str, tuple[str, Callable[[Chains], Entry]]] = {
    "a second entry of one author after the same one": (
        "fork",
        lambda chains: after(tip_of(example(2)), "n2", version=digest("other")),
    ),
    "an entry of another author at a place that is taken": (
        "fork",
        lambda chains: after(tip_of(example(2)), "n1"),
    ),
    "an entry that follows one that is not here": (
        "fork",
        lambda chains: resigned(after(tip_of(chains), "n1"), prev=digest("elsewhere")),
    ),
    "a gap": ("missing", lambda chains: resigned(after(tip_of(chains), "n1"), place=7)),
    "an unknown chain": (
        "missing",
        lambda chains: resigned(after(tip_of(chains), "n1"), walker="w7"),
    ),
    "an old version": (
        "replay",
        lambda chains: after(tip_of(chains), "n1", version=chains.entries[1].version),
    ),
    "the version that came, with nothing done": (
        "replay",
        lambda chains: after(tip_of(chains), "n1", version=tip_of(chains).version),
    ),
    "an old version as parent": (
        "parent",
        lambda chains: after(tip_of(chains), "n1", parents=(chains.entries[1].version,)),
    ),
    "a merge with a version that nobody made": (
        "parent",
        lambda chains: after(
            tip_of(chains), "n1", parents=(tip_of(chains).version, digest("other walk"))
        ),
    ),
    "a clock that goes backwards": (
        "clock",
        lambda chains: after(tip_of(chains), "n1", time_s=4.9),
    ),
    "a hop that goes backwards": ("order", lambda chains: after(tip_of(chains), "n1", hop=1)),
    "a receipt for another entry": (
        "receipt",
        lambda chains: after(
            tip_of(chains),
            "n1",
            receiver="n3",
            receipt=countersign(key_of(0, "n3"), chains.entries[0].hash, "n3"),
        ),
    ),
    "a receipt in the name of another": (
        "receipt",
        lambda chains: after(
            tip_of(chains),
            "n1",
            receiver="n3",
            receipt=countersign(key_of(0, "n2"), tip_of(chains).hash, "n3"),
        ),
    ),
    "a receipt of a stranger": (
        "receipt",
        lambda chains: after(
            tip_of(chains),
            "n1",
            receiver="n9",
            receipt=countersign(key_of(0, "n9"), tip_of(chains).hash, "n9"),
        ),
    ),
    "a second founding": ("fork", lambda chains: start(version=digest("W0 again"))),
    "a chain founded by others": ("members", lambda chains: start("w1", nodes=3)),
    "a member that joins again": (
        "members",
        lambda chains: after(
            tip_of(chains), "n1", kind="join", subject="n2", subject_key=public(new_key())
        ),
    ),
    "a node expelled by another": (
        "members",
        lambda chains: after(tip_of(chains), "n1", kind="leave", subject="n2"),
    ),
    "a stranger that is readmitted": (
        "members",
        lambda chains: after(tip_of(chains), "n1", kind="readmission", subject="n9"),
    ),
    "a refusal of an old version": (
        "parent",
        lambda chains: after(
            tip_of(chains),
            "n1",
            kind="refusal",
            version=chains.entries[1].version,
            subject="n1",
            reason="bad",
        ),
    ),
    "a refusal that blames another": (
        "parent",
        lambda chains: after(
            tip_of(chains),
            "n1",
            kind="refusal",
            version=tip_of(chains).version,
            subject="n0",
            reason="bad",
        ),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_named_though_it_is_signed(lie: str) -> None:
    reason, entry = LIES[lie]
    chains = example(3)
    assert refused(chains, entry(chains).text).reason == reason
