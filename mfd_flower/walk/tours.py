"""A tour: packets that come to every node once, its holders knowing who is left.

Whose turn is over stands in a packet's header as two bitmaps: ``included``, and ``passed`` for who
was asked in vain. Several walkers have a share of the nodes each and meet when they are through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord

from mfd_flower.packets import Packet
from mfd_flower.packets.members import bitmap, members_in
from mfd_flower.records import integer
from mfd_flower.routing import Candidate
from mfd_flower.routing.candidate import address_order
from mfd_flower.walk.visit import Visit

LAST_TRIES = 3
"""How often a holder tries a node again that did not answer, when no other is left."""


@dataclass(frozen=True)
class Tour:
    """What all nodes know of a tour: how many there are, how many walkers, and where they meet."""

    nodes: int
    walkers: int = 1
    start_node: int = 0
    """Where the first walker begins, and where all meet."""

    @property
    def meeting(self) -> str:
        """Address at which walkers meet, empty for a single one."""
        return f"n{self.start_node}" if self.walkers > 1 else ""

    def has(self, address: str) -> bool:
        """Tell whether an address is one of the nodes."""
        number = address.removeprefix("n")
        told = number.isascii() and number.isdecimal() and int(number) < self.nodes
        return told and address == f"n{int(number)}"

    def members(self, text: str) -> frozenset[str]:
        """Return the addresses in a bitmap; `PacketError` if it is none of these nodes."""
        return members_in(text, self.nodes)

    def left(self, told: Mapping[str, Any], walker: str) -> set[str]:
        """Return whom a walker with this header has to see yet.

        Its share of the nodes, an even one from its start on; of all, when the meeting is over and
        the header names none.
        """
        number = int(walker.removeprefix("w"))
        first, last = (n * self.nodes // self.walkers for n in (number, number + 1))
        share = range(first, last) if told["meeting"] else range(self.nodes)
        done = self.members(told["included"]) | self.members(told["passed"])
        return {f"n{(self.start_node + i) % self.nodes}" for i in share} - done

    def next(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return who may be next: who is left, then the meeting node, or nobody."""
        told = visit.header or vars(visit.onward)
        left = self.left(told, newest(visit).walker)
        meets = not left and bool(told["meeting"])
        if meets:
            left = {told["meeting"]} - {visit.node.address}
        if not left:
            return []
        if found := towards(visit, left, candidates):
            return found
        if not visit.header:
            # Sent again, a packet comes to its holder once more, which then writes down whom.
            return []
        if meets:
            return self._meet_elsewhere(visit, candidates)
        visit.header["passed"] = bitmap(self.members(told["passed"]) | left)
        return self.next(visit, candidates)

    def _meet_elsewhere(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Meet at the next node in the order of addresses, which all walkers try in turn."""
        number = (int(visit.header["meeting"].removeprefix("n")) + 1) % self.nodes
        if self.walkers == 1 or number == self.start_node:
            return []
        visit.header["meeting"] = f"n{number}"
        here = visit.node.address
        return [Candidate(here)] if f"n{number}" == here else self.next(visit, candidates)


def towards(visit: Visit, left: set[str], candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the candidates that are in `left`, who may lead there, or one for a last try."""
    near = set(visit.node.world_view().neighbours)
    open_links = candidates or [Candidate(a) for a in sorted(near - visit.table.gone)]
    if wanted := [c for c in open_links if c.address in left]:
        return wanted
    reached = {c.address for c in open_links} & near
    if left - near and reached:
        # Somewhere behind the neighbours.
        trail = visit.trail()
        onward = trail.onward(sorted(reached, key=address_order), newest(visit).hop)
        visit.keep_trail(trail)
        return [c for c in open_links if c.address == onward]
    return _last_tries(visit, sorted(left & near))


def newest(visit: Visit) -> Packet:
    """Return a visit's packet as it leaves, or else as it came."""
    return visit.onward if "onward" in vars(visit) else visit.start


def key(name: str, visit: Visit) -> str:
    """Return under which name a node keeps a record of a packet's tour."""
    return f"{name}/{newest(visit).tour}"


def _last_tries(visit: Visit, lost: Sequence[str]) -> list[Candidate]:
    name = key("tries", visit)
    record = visit.context.state.config_records.get(name, ConfigRecord())
    tries = {address: integer(record, address) for address in record}
    again = [address for address in lost if tries.get(address, 0) < LAST_TRIES]
    if not again:
        return []
    tries[again[0]] = tries.get(again[0], 0) + 1
    visit.keep_for_all(name, ConfigRecord({**tries}))
    return [Candidate(again[0])]
