"""Virtual time: how long a transfer takes in a world, and until when each address is busy.

Wall time of a simulation says nothing about a network. A message starts when its sender is free and
a node begins with it when it is idle, so parallel work costs its slowest member, a chain its sum.
"""

from __future__ import annotations

import math
from contextvars import ContextVar

from mfd_flower.network.world import Transfer, World

now_s: ContextVar[float] = ContextVar("now_s", default=0.0)
"""When the message that a node is handling arrived, in virtual seconds."""
MAX_CHANGES = 100_000
"""Changes of a link's rate after which a message that is still under way counts as lost."""


class UnreachableError(RuntimeError):
    """A message would be under way for ever."""


class Clock:
    """Until when each address is busy, in virtual seconds; nobody is at first."""

    def __init__(self) -> None:
        self.busy_until_s: dict[str, float] = {}

    @property
    def end_s(self) -> float:
        """Time at which the last actor is done."""
        return max(self.busy_until_s.values(), default=0.0)

    def free_s(self, address: str) -> float:
        """Return when an address is done with all it has to do."""
        return self.busy_until_s.get(address, 0.0)

    def occupy(self, address: str, until_s: float) -> None:
        """Note that an address is busy at least until then."""
        self.busy_until_s[address] = max(self.free_s(address), until_s)


def transfer_s(world: World, transfer: Transfer, size_bytes: int, at_s: float) -> float:
    """Return how long a transfer takes: its latency, then its bits at the rate of each moment.

    Raises UnreachableError if the link stays at rate 0.
    """
    latency_s = world.latency_s(transfer.source, transfer.destination, at_s)
    bits, since_s = float(8 * size_bytes), at_s
    for _ in range(MAX_CHANGES):
        rate_bps = float(world.rates_bps([transfer], since_s)[0])
        change_s = world.next_change_s(since_s)
        if rate_bps > 0 and bits <= rate_bps * (change_s - since_s):
            return latency_s + (since_s - at_s + bits / rate_bps)
        if math.isinf(change_s):
            break
        bits -= rate_bps * (change_s - since_s)
        since_s = change_s
    raise UnreachableError(
        f"{transfer.source} to {transfer.destination} over {transfer.link}: "
        f"the message of {at_s:g} s never arrives; the rate is {rate_bps:g} bit/s at {since_s:g} s"
    )
