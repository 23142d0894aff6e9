"""A tour: packets that come to every node once, its holders knowing who is left.

Whose turn is over stands in a packet's header as two bitmaps: ``included``, and ``passed`` for who
was asked in vain. Several walkers have a share of the nodes each and meet when they are through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.app import ConfigRecord

from mfd_flower.packets import Packet
from mfd_flower.packets.members import bitmap, members_in
from mfd_flower.records import integer
from mfd_flower.routing import Candidate, Trail
from mfd_flower.routing.candidate import address_order
from mfd_flower.walk.visit import Visit

SEARCH_HOPS = 2
"""Hops a node within which a search in depth comes to all in reach."""
LAST_TRIES = 3
"""How often a holder tries a node again that did not answer, when no other is left."""


Search = Callable[[Visit, Sequence[str]], str]
"""Where a packet goes on among neighbours, none of whom it looks for; empty to give up."""


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
        return {f"n{(self.start_node + i) % self.nodes}" for i in share} - self._done(told)

    def next(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return who may be next: who is left, then the meeting node, or nobody."""
        told = visit.header or vars(visit.onward)
        left = self.left(told, newest(visit).walker)
        meets = not left and bool(told["meeting"])
        if meets:
            left = {told["meeting"]} - {visit.node.address}
        if not left:
            return []
        come = frozenset[str]() if meets else self._done(told)
        if found := towards(visit, left, candidates, partial(self._search, come=come)):
            return found
        if not visit.header:
            # Sent again, a packet comes to its holder once more, which then writes down whom.
            return []
        visit.header["toured"] = ""  # Whom it looks for next it has not looked for yet.
        if meets:
            return self._meet_elsewhere(visit, candidates)
        visit.header["passed"] = bitmap(self.members(told["passed"]) | left)
        return self.next(visit, candidates)

    def _search(self, visit: Visit, reached: Sequence[str], come: frozenset[str]) -> str:
        """Return where a search in depth goes on; empty if it has come to all in vain.

        `come` are those that the walker had come to when it began to look: of a single one all
        others are left. One of several passes through others' shares, and whom it has come to since
        stands in the header as ``toured``. Where links come and go it looks on, and keeps as many
        hops as a search for the meeting takes.
        """
        if self.walkers == 1 or not visit.header:
            return back_or_on(visit, reached)
        looked = visit.header.get("toured", visit.start.toured)
        trail = visit.trail() if looked or come else Trail()
        toured = (self.members(looked) if looked else come) | {visit.node.address}
        visit.header["toured"] = bitmap(toured)
        visit.keep_trail(trail)
        if fresh := [address for address in reached if address not in toured]:
            return fresh[0]
        late = visit.start.ttl <= SEARCH_HOPS * self.nodes
        if not trail.came_from and (late or not visit.node.world_view().changes):
            return ""
        return back_or_on(visit, reached, trail)

    def _done(self, told: Mapping[str, Any]) -> frozenset[str]:
        return self.members(told["included"]) | self.members(told["passed"])

    def _meet_elsewhere(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Meet at the next node in the order of addresses, which all walkers try in turn."""
        number = (int(visit.header["meeting"].removeprefix("n")) + 1) % self.nodes
        if self.walkers == 1 or number == self.start_node:
            return []
        visit.header["meeting"] = f"n{number}"
        here = visit.node.address
        return [Candidate(here)] if f"n{number}" == here else self.next(visit, candidates)


def towards(
    visit: Visit, left: set[str], candidates: Sequence[Candidate], search: Search | None = None
) -> Sequence[Candidate]:
    """Return the candidates that are in `left`, who may lead there, or one for a last try.

    `search` chooses among the neighbours where none is in `left`; without it, back, and then on
    to whom this node has sent the packet longest ago.
    """
    near = set(visit.node.world_view().neighbours)
    open_links = candidates or [Candidate(a) for a in sorted(near - visit.table.gone)]
    if wanted := [c for c in open_links if c.address in left]:
        return wanted
    reached = sorted({c.address for c in open_links} & near, key=address_order)
    if left - near and reached:
        # Somewhere behind the neighbours.
        onward = (search or back_or_on)(visit, reached)
        if found := [c for c in open_links if c.address == onward]:
            return found
    return _last_tries(visit, sorted(left & near))


def back_or_on(visit: Visit, reached: Sequence[str], trail: Trail | None = None) -> str:
    """Return the way back by a trail, the node's own without it, or on."""
    trail = visit.trail() if trail is None else trail
    onward = trail.onward(reached, newest(visit).hop)
    visit.keep_trail(trail)
    return onward


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
