"""A small ledger that is always the same, for documentation, tests and measurements."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mfd_flower.ledger.chain import Chains
from mfd_flower.ledger.entry import Entry
from mfd_flower.ledger.keys import key_of, public_key
from mfd_flower.ledger.store import Ledger
from mfd_flower.ledger.writing import Tip, follow, found

NODES = ("n0", "n1", "n2", "n3")
NEWCOMER = "n4"
KINDS = {3: "join", 6: "refusal", 7: "readmission", 8: "leave"}
"""Places of the entries that make no version."""


def example_ledger(path: Path | str, entries: int) -> Ledger:
    """Write a valid ledger of that many entries, the same each time.

    `path` is a new file, or `LedgerError` if another beginning than this ledger's is there.
    """
    ledger = Ledger(path)
    ledger.store(lambda chains: extend_example(chains, entries))
    return ledger


def extend_example(chains: Chains, entries: int, walker: str = "w0") -> None:
    """Go on with the example up to that many entries, signed with `key_of(0, address)`."""
    name = f"example#{walker}"
    for place in range(chains.tips[name].place + 1 if name in chains.tips else 0, entries):
        chains.extend([_entry(chains.tips.get(name), place, walker).text])


def example_version(place: int) -> str:
    """Return a digest to stand for the version made at this place."""
    return hashlib.sha256(f"example version {place}".encode()).hexdigest()


def _entry(tip: Tip | None, place: int, walker: str) -> Entry:
    author = NODES[place % len(NODES)]
    key = key_of(0, author)
    told: dict[str, Any] = {"author": author, "size_bytes": 8192}
    if tip is None:
        members = {name: public_key(key_of(0, name)) for name in NODES}
        told |= {"version": example_version(0), "members": members, "accuracy_after": 0.1}
        return found(key, model_id="example", walker=walker, **told)
    kind = KINDS.get(place, "version")
    by_kind: dict[str, dict[str, Any]] = {
        "version": {
            "version": example_version(place),
            "accuracy_before": round(0.9 - 0.8 / place, 4),
            "accuracy_after": round(0.9 - 0.8 / (place + 1), 4),
            "samples": 75 * place,
            "size_bytes": 8192,
        },
        "join": {"subject": NEWCOMER, "subject_key": public_key(key_of(0, NEWCOMER))},
        "refusal": {
            "version": tip.version,
            "subject": tip.author,
            "reason": "accuracy on held-out samples fell from 0.74 to 0.31",
        },
        "readmission": {"subject": NODES[(place - 2) % len(NODES)], "reason": "audited"},
        "leave": {"subject": NEWCOMER, "reason": "switched off"},
    }
    told = {"author": author, "kind": kind, "hop": place, "time_s": 2.5 * place, **by_kind[kind]}
    return follow(key, tip, **told)
