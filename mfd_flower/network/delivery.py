"""When messages that are under way at the same time arrive, in a world whose rates they share.

Each has the rate that the world gives it among all that are being sent; rates are asked for again
whenever one begins or ends, and when the world says that they change. In between bits flow evenly,
so that times are exact but for rounding. Where nothing is shared each is on its own, and n messages
cost as much as n times one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mfd_flower.network.world import Transfer, World

MAX_CHANGES = 100_000
"""Changes of rates after which a message that is still under way counts as lost."""


class Sending(NamedTuple):
    """A message that is sent from some time on, as soon as its sender is heard."""

    transfer: Transfer
    size_bytes: int
    begins_s: float
    until_s: float = math.inf
    """What would arrive later is lost; it is sent until then."""


class Sent(NamedTuple):
    """What became of it."""

    air_s: float
    """How long it was sent."""
    arrives_s: float
    """Behind the link's latency; infinite if it is lost."""
    known_s: float
    """When its sender knows that it arrived, or gave it up."""


def deliver(
    world: World,
    messages: Sequence[Sending],
    others: Sequence[tuple[Transfer, float, float]] = (),
) -> list[Sent]:
    """Return how long each of several messages is under way.

    `others` were sent before and are under way from one time to another: they take part in the
    sharing, and what is sent now does not delay them. A message is given up when nothing of it has
    got through for the world's `patience_s`.
    """
    if not world.shares and len(messages) > 1:
        return [sent for message in messages for sent in deliver(world, [message])]
    sendings = _Sendings(world, messages, others if world.shares else ())
    sendings.run()
    found = []
    for message, ends_s, given_up_s in zip(
        messages, sendings.ends_s, sendings.given_up_s, strict=True
    ):
        begins_s = message.begins_s
        latency_s = world.latency_s(*message.transfer[:2], begins_s)
        air_s = float(ends_s - begins_s)
        arrives_s = begins_s + (latency_s + air_s)
        stops_s = min(float(given_up_s), message.until_s)
        if arrives_s > stops_s or math.isinf(arrives_s):
            # A sender that waits for ever, for what never comes, would be no use to anybody.
            known_s = begins_s if math.isinf(stops_s) else stops_s
            found.append(Sent(max(known_s - begins_s, 0.0), math.inf, max(known_s, begins_s)))
        else:
            found.append(Sent(air_s, arrives_s, arrives_s))
    return found


class _Sendings:
    """Messages under way, and how much of each is left."""

    def __init__(
        self,
        world: World,
        messages: Sequence[Sending],
        others: Sequence[tuple[Transfer, float, float]],
    ) -> None:
        self.world, self.others = world, others
        self.transfers = [message.transfer for message in messages]
        self.begins_s = np.array([message.begins_s for message in messages], float)
        self.until_s = np.array([message.until_s for message in messages], float)
        self.ends_s = np.full(len(messages), math.inf)
        self.given_up_s = np.full(len(messages), math.inf)
        # A rate holds since some time, when so many bits were left: what ends without another
        # change ends exactly its bits over its rate later.
        self._bits = np.array([8.0 * message.size_bytes for message in messages])
        self._since_s = self.begins_s.copy()
        self._rates = np.zeros(len(messages))
        self._over = np.zeros(len(messages), bool)

    def run(self) -> None:
        """Go from change to change until all are over, or nothing will change any more."""
        at_s = self.begins_s.min(initial=math.inf)
        for _ in range(MAX_CHANGES):
            if self._over.all() or math.isinf(at_s):
                return
            self._ask(at_s)
            at_s = self._next(at_s)

    def _ask(self, at_s: float) -> None:
        """End what is sent by now, and take the rates of what goes on."""
        going = ~self._over & (self.begins_s <= at_s)
        done = going & (self._due() <= at_s)
        self.ends_s[done] = self._due()[done]
        lost = going & ~done & (self._stops() <= at_s)
        self.given_up_s[lost] = self._stops()[lost]
        self._over |= done | lost
        active = np.flatnonzero(going & ~self._over)
        if not len(active):
            return
        beside = [transfer for transfer, since_s, to_s in self.others if since_s <= at_s < to_s]
        now = [self.transfers[number] for number in active]
        rates = self.world.rates_bps([*now, *beside], at_s)[: len(active)]
        changed = active[rates != self._rates[active]]
        gone_s = at_s - self._since_s[changed]
        self._bits[changed] = np.maximum(self._bits[changed] - self._rates[changed] * gone_s, 0.0)
        self._since_s[changed] = at_s
        self._rates[active] = rates

    def _due(self) -> np.ndarray:
        """Return when each ends at its rate, infinite at rate 0 unless nothing is left of it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            left_s = np.where(self._bits > 0, self._bits / self._rates, 0.0)
        return self._since_s + left_s

    def _stops(self) -> np.ndarray:
        """Return when each is given up, if nothing changes before."""
        silent_s = np.where(self._rates == 0, self._since_s + self.world.patience_s, math.inf)
        return np.minimum(silent_s, self.until_s)

    def _next(self, at_s: float) -> float:
        """Return when anything changes next."""
        going = ~self._over & (self.begins_s <= at_s)
        later = self.begins_s[self.begins_s > at_s]
        next_s = min(
            self._due()[going].min(initial=math.inf),
            self._stops()[going].min(initial=math.inf),
            later.min(initial=math.inf),
            min((t for _, *ends in self.others for t in ends if t > at_s), default=math.inf),
        )
        return float(min(next_s, self.world.next_change_s(at_s) if going.any() else math.inf))
