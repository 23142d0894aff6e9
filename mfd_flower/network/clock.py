"""Virtual time: until when each address is busy.

Wall time of a simulation says nothing about a network. A message starts when its sender is free and
a node begins with it when it is idle, so parallel work costs its slowest member, a chain its sum.
"""

from __future__ import annotations

from contextvars import ContextVar

now_s: ContextVar[float] = ContextVar("now_s", default=0.0)
"""When the message that a node is handling arrived, in virtual seconds."""


class Clock:
    """Until when each address is busy, in virtual seconds; nobody is at first."""

    def __init__(self) -> None:
        self.busy_until_s: dict[str, float] = {}

    def free_s(self, address: str) -> float:
        """Return when an address is done with all it has to do."""
        return self.busy_until_s.get(address, 0.0)

    def occupy(self, address: str, until_s: float) -> None:
        """Note that an address is busy at least until then."""
        self.busy_until_s[address] = max(self.free_s(address), until_s)
