"""Whose versions are still taken: an author refused twice in a row is dropped until readmitted.

A small state machine (whitepaper, section 2.6: poisoned models are kept out). One refusal may be
the level of a test; the second makes it unlikely. Whose refusals to count is for the caller:
a refusal that another node merely claims is a way to drop an honest author.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REFUSALS_TO_DROP = 2


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
