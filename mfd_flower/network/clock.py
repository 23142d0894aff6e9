"""Virtual time: until when each address is busy, and what the chain of things before that took.

Wall time of a simulation says nothing about a network. A message starts when its sender is free and
a node begins with it when it is idle, so parallel work costs its slowest member, a chain its sum.
The chain is the one that everybody waited for: what it took adds up to the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple, Self

now_s: ContextVar[float] = ContextVar("now_s", default=0.0)
"""When the message that a node is handling arrived, in virtual seconds."""

KINDS = ("down", "sensing", "compute", "d2d", "backhaul", "up", "waiting")
"""What time goes into, GaisNet section III-C (arXiv 2401.02668): model delivery, acquiring samples,
computing, links between nodes and between base stations, upload; and what nothing came of."""
_PLACES = {kind: place for place, kind in enumerate(KINDS)}


class Moment(NamedTuple):
    """A virtual time and how it came to it."""

    at_s: float = 0.0
    took_s: tuple[float, ...] = (0.0,) * len(KINDS)
    """By kind, in the order of `KINDS`; their sum is `at_s`."""

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Self:
        """Return what `numbers` gave."""
        return cls(numbers[0], tuple(numbers[1:]))

    @property
    def numbers(self) -> list[float]:
        """All of it in a row."""
        return [self.at_s, *self.took_s]

    @property
    def took(self) -> dict[str, float]:
        """What it took by name of the kind, in seconds."""
        return dict(zip(KINDS, self.took_s, strict=True))

    def later(self, at_s: float, kind: str) -> Moment:
        """Return a later one that a thing of this kind led to."""
        if at_s == self.at_s:
            return self
        took_s, place = self.took_s, _PLACES[kind]
        spent_s = took_s[place] + (at_s - self.at_s)
        return Moment(at_s, (*took_s[:place], spent_s, *took_s[place + 1 :]))


START = Moment()


class Clock:
    """Until when each address is busy, in virtual seconds; nobody is at first."""

    def __init__(self) -> None:
        self._until: dict[str, Moment] = {}

    def free(self, address: str) -> Moment:
        """Return when an address is done with all it has to do."""
        return self._until.get(address, START)

    def free_s(self, address: str) -> float:
        """Return that time alone."""
        return self.free(address).at_s

    def occupy(self, address: str, until: Moment) -> None:
        """Note that an address is busy at least until then."""
        if until.at_s > self.free_s(address):
            self._until[address] = until

    def state(self) -> dict[str, list[float]]:
        """Return all that is known, as a checkpoint keeps it."""
        return {address: until.numbers for address, until in self._until.items()}

    def load_state(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on from there."""
        self._until = {address: Moment.of(numbers) for address, numbers in state.items()}
