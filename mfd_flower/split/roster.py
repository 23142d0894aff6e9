"""Who holds which stage of a cluster in one round, and the way to the neighbours.

GaisNet section II-D (arXiv 2401.02668): the edge server delivers stages to the members of a
cluster; it may stand in for one, and then holds a position itself under the address `EDGE`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mfd_flower.records import integer, number, text
from mfd_flower.split.frames import LinkError
from mfd_flower.split.gloo import connect
from mfd_flower.split.links import Neighbours
from mfd_flower.split.rendezvous import meet

EDGE = "edge"
LOOPBACK = "127.0.0.1"


class NotMetError(LinkError):
    """Members of a cluster did not run at the same time."""


@dataclass(frozen=True)
class Roster:
    """One cluster in one round, and how it works; every member gets the same.

    Attributes
    ----------
    meeting : str
        Of this run, and of no other in the process.
    round, cluster : int
        Of the run, from 1 and from 0.
    members : tuple of str
        Address that holds each position, `EDGE` where the edge server stands in. U-shaped, the
        first one is also the last.
    cuts : tuple of int
        As `split_model` takes them.
    micro_batches : int
        Parts of a batch.
    codec : str
        Of activations and gradients, as `Link` takes it.
    meet_s, timeout_s : float
        Longest time to wait for the others at the start, and for a neighbour's next tensor.
    host, port : str and int
        Where position 0 is met over gloo; with an empty host members are threads of one process.
    """

    meeting: str
    round: int
    cluster: int
    members: tuple[str, ...]
    cuts: tuple[int, ...]
    micro_batches: int = 1
    codec: str = "fp32"
    meet_s: float = 30.0
    timeout_s: float = 120.0
    host: str = ""
    port: int = 0

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_record` gave; KeyError or TypeError if it is not that."""
        return cls(
            text(record, "meeting"),
            integer(record, "round"),
            integer(record, "cluster"),
            tuple(map(str, record["members"])),
            tuple(map(int, record["cuts"])),
            integer(record, "micro_batches"),
            text(record, "codec"),
            number(record, "meet_s"),
            number(record, "timeout_s"),
            text(record, "host"),
            integer(record, "port"),
        )

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
        """Meet the others and return the links to both neighbours.

        Raises
        ------
        NotMetError
            If one does not come in time.
        """
        try:
            if self.host:
                where = (self.host, self.port)
                return connect(*where, position, self.members, self.meet_s, self.codec)
            key = (self.meeting, self.round, self.cluster)
            return meet(key, position, self.members, self.meet_s, self.codec)
        except LinkError as error:
            raise NotMetError(str(error)) from None


def free_port() -> int:
    """Return a TCP port that nothing on this machine listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def seated(clients: Sequence[str], edge_stages: Sequence[int]) -> tuple[str, ...]:
    """Put clients into a row of positions, the edge server into its own.

    Parameters
    ----------
    clients : sequence of str
        The first of them gets position 0.
    edge_stages : sequence of int
        Positions of the edge server, rising; those far behind the last client's are left out.
    """
    row = list(clients)
    for position in edge_stages:
        if position <= len(row):
            row.insert(position, EDGE)
    return tuple(row)
