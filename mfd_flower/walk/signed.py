"""What the ledger says of a tour's sums: who signed to have added samples, and what was refused."""

from __future__ import annotations

import itertools

from mfd_flower.walk.node_ledger import NodeLedger


def added(ledger: NodeLedger, version: str) -> dict[str, int]:
    """Return who signed to have added samples to a version of sums, and how many.

    Down to W0, where walkers met by both parents. `LedgerError` if an entry is not here.
    """
    found: dict[str, int] = {}
    for made, before in itertools.pairwise(ledger.chains.trace(version)):
        if made.samples > before.samples:
            found[made.author] = made.samples - before.samples
        for other in made.parents[1:]:
            found |= added(ledger, other)
    return found


def all_refused(ledger: NodeLedger, version: str, author: str) -> bool:
    """Tell whether an author made something of a version, and all of it was refused."""
    made = [entry for entry in ledger.made_of(version) if entry.author == author]
    return bool(made) and all(ledger.refused(entry.version) for entry in made)


def refused_by(ledger: NodeLedger, author: str) -> set[str]:
    """Return who has refused what an author made."""
    entries = ledger.chains.entries
    return {each.author for each in entries if (each.kind, each.subject) == ("refusal", author)}
