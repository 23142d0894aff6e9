"""Whose versions are still taken: an author refused twice in a row is dropped until readmitted.

A small state machine (whitepaper, section 2.6: poisoned models are kept out). One refusal may be
the level of a test; the second makes it unlikely. Whose refusals to count is for the caller:
a refusal that another node merely claims is a way to drop an honest author.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mfd_flower.ledger.history import AuditError

REFUSALS_TO_DROP = 2
MAX_AUTHORS = 100_000
MAX_ADDRESS_CHARS = 64


@dataclass(frozen=True)
class Standing:
    """Refusals of each author.

    Attributes
    ----------
    refusals : mapping of str to int
        Refusals in a row by address, from 1 to `REFUSALS_TO_DROP`; who has none is left out.
    """

    refusals: Mapping[str, int] = field(default_factory=dict)

    def refused(self, author: str) -> Standing:
        """Return the standing after a version of `author` was refused."""
        count = min(self.refusals.get(author, 0) + 1, REFUSALS_TO_DROP)
        return Standing({**self.refusals, author: count})

    def accepted(self, author: str) -> Standing:
        """Return the standing after a version of `author` was accepted; a dropped one stays so."""
        return self if self.is_dropped(author) else self.readmitted(author)

    def readmitted(self, author: str) -> Standing:
        """Return the standing in which `author` starts anew."""
        return Standing({name: n for name, n in self.refusals.items() if name != author})

    def is_dropped(self, author: str) -> bool:
        """Tell whether `author` is to be left out of routing tables."""
        return self.refusals.get(author, 0) >= REFUSALS_TO_DROP

    def fields(self) -> dict[str, list[str] | list[int]]:
        """Return two lists, as Flower's records carry them."""
        names = sorted(self.refusals)
        return {"authors": names, "refusals": [self.refusals[name] for name in names]}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of `fields`; raises `AuditError` for anything else."""
        authors, counts = fields.get("authors"), fields.get("refusals")
        if not isinstance(authors, list) or len(authors) > MAX_AUTHORS:
            raise AuditError("standing.authors", authors, f"a list of at most {MAX_AUTHORS}")
        if not isinstance(counts, list) or len(counts) != len(authors):
            raise AuditError("standing.refusals", counts, f"a list of {len(authors)} whole numbers")
        for name in authors:
            if type(name) is not str or not 0 < len(name) <= MAX_ADDRESS_CHARS:
                accepted = f"addresses of 1 to {MAX_ADDRESS_CHARS} characters"
                raise AuditError("standing.authors", name, accepted)
        if len(set(authors)) != len(authors):
            raise AuditError("standing.authors", authors, "every author once")
        for count in counts:
            if type(count) is not int or not 1 <= count <= REFUSALS_TO_DROP:
                raise AuditError("standing.refusals", count, f"from 1 to {REFUSALS_TO_DROP}")
        return cls(dict(zip(authors, counts, strict=True)))
