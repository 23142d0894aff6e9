"""Quarantine: an author whose versions were refused twice in a row is dropped until readmitted.

Whitepaper, section 2.6: poisoned models are kept out. One refusal may be the level of a test; the
second makes it unlikely. Whose refusals to count is for the caller: a refusal that another node
merely claims is a way to drop an honest author.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REFUSALS_TO_DROP = 2


@dataclass(frozen=True)
class Quarantine:
    """Refusals in a row of each author, from 1 to `REFUSALS_TO_DROP`; none is left out."""

    refusals: Mapping[str, int] = field(default_factory=dict)

    def refused(self, author: str) -> Quarantine:
        """Return the state after a version of `author` was refused."""
        count = min(self.refusals.get(author, 0) + 1, REFUSALS_TO_DROP)
        return Quarantine({**self.refusals, author: count})

    def accepted(self, author: str) -> Quarantine:
        """Return the state after a version of `author` was accepted; a dropped one stays so."""
        return self if self.is_dropped(author) else self.readmitted(author)

    def readmitted(self, author: str) -> Quarantine:
        """Return the state in which `author` starts anew."""
        return Quarantine({name: n for name, n in self.refusals.items() if name != author})

    def is_dropped(self, author: str) -> bool:
        """Tell whether `author` is to be left out of routing tables."""
        return self.refusals.get(author, 0) >= REFUSALS_TO_DROP
