"""What a node remembers of a walker's tour, so that the walker finds those it has not come to.

Where all in reach have been visited a packet goes back to where the node had it from at first, as a
search in depth does (Tarry 1895): on a graph that stays as it is every node is visited, within
twice as many hops as there are nodes. Each way back is gone once; where it is spent, or its other
end has walked off, the packet goes to whom this node has sent it longest ago, as a rotor-router
does (Priezzhev et al. 1996). A header carries nothing of that: nodes do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mfd_flower.routing.candidate import address_order


@dataclass
class Trail:
    """Of one walker in one tour, at one node."""

    came_from: str = ""
    """Who brought it the first time; empty at the start, and once it has gone back."""
    sent: dict[str, int] = field(default_factory=dict)
    """The hop at which it was last sent on from here because nobody was new, by receiver."""

    def onward(self, near: Sequence[str], hop: int) -> str:
        """Return where the packet goes when all of `near`, at least one, were visited."""
        back, self.came_from = self.came_from, ""
        if back in near:
            return back
        chosen = min(near, key=lambda name: (self.sent.get(name, -1), address_order(name)))
        self.sent[chosen] = hop
        return chosen

    def told(self) -> dict[str, str | list[str] | list[int]]:
        """Return it as plain values."""
        return {
            "came-from": self.came_from,
            "receivers": list(self.sent),
            "hops": list(self.sent.values()),
        }

    @classmethod
    def from_told(cls, told: Mapping[str, object]) -> Trail:
        """Inverse of `told`."""
        receivers, hops = told["receivers"], told["hops"]
        assert isinstance(receivers, list)
        assert isinstance(hops, list)
        return cls(str(told["came-from"]), dict(zip(receivers, hops, strict=True)))
