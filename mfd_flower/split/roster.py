"""Who holds which stage of a cluster in one round, and the way to the neighbours.

GaisNet section II-D (arXiv 2401.02668): the edge server delivers stages to the members of a
cluster; it may stand in for one, and then holds a position itself under the address `EDGE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mfd_flower.checks import build
from mfd_flower.network.world import EDGE
from mfd_flower.split.frames import LinkError
from mfd_flower.split.gloo import connect
from mfd_flower.split.links import Neighbours
from mfd_flower.split.queues import meet


class NotMetError(LinkError):
    """Members of a cluster did not run at the same time."""


@dataclass(frozen=True)
class Roster:
    """One cluster in one round, and how it works; every member gets the same."""

    meeting: str
    """Of this run, and of no other in the process."""
    round: int
    cluster: int
    members: tuple[str, ...]
    """Address that holds each position, `EDGE` where the edge server stands in. U-shaped, the first
    one is also the last."""
    cuts: tuple[int, ...]
    """As `split_model` takes them."""
    micro_batches: int = 1
    codec: str = "fp32"
    """Of activations and gradients."""
    meet_s: float = 30.0
    """Longest time to wait for the others at the start."""
    timeout_s: float = 120.0
    """Longest time to wait for a neighbour's next tensor."""
    host: str = ""
    """Where position 0 is met over gloo; empty where members are threads of one process."""
    port: int = 0

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_record` gave."""
        return build(cls, record, "roster.")

    def to_record(self) -> dict[str, Any]:
        """Return scalars and lists, as Flower's ConfigRecord takes them."""
        return {**vars(self), "members": list(self.members), "cuts": list(self.cuts)}

    @property
    def u_shape(self) -> bool:
        """Whether the last stage is with the first client, where the labels are."""
        return len(self.members) > 1 and self.members[0] == self.members[-1]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses that take part, the edge server left out."""
        return tuple(dict.fromkeys(name for name in self.members if name != EDGE))

    def positions(self, address: str) -> list[int]:
        """Return the positions that an address holds."""
        return [place for place, member in enumerate(self.members) if member == address]

    def join(self, position: int) -> Neighbours:
        """Meet the others and return the links to both neighbours; NotMetError if one is late."""
        one = (position, self.members, self.meet_s, self.codec)
        key = (self.meeting, self.round, self.cluster)
        try:
            return connect(self.host, self.port, *one) if self.host else meet(key, *one)
        except LinkError as error:
            raise NotMetError(str(error)) from None


def seated(clients: Sequence[str], edge_stages: Sequence[int]) -> tuple[str, ...]:
    """Put clients into a row of positions, and the edge server into its own, rising ones.

    Those of the edge server that are far behind the last client's are left out.
    """
    row = list(clients)
    for position in edge_stages:
        if position <= len(row):
            row.insert(position, EDGE)
    return tuple(row)
