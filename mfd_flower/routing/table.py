"""A node's routing table, filled from the adverts that reach it (whitepaper, section 2.3).

Sequence numbers decide what is new, as in DSDV (Perkins and Bhagwat, 1994), so that the order of
arrival does not matter and a flood ends. An advert costs constant time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from mfd_flower.checks import Bounds, build, checked
from mfd_flower.names import Address
from mfd_flower.routing.adverts import Advert, AdvertError, Count
from mfd_flower.routing.candidate import Candidate, address_order

NEVER_HEARD = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """The advert that holds for an address, and how it came."""

    advert: Advert
    via: Address
    """Neighbour that passed it on; the address itself for a neighbour."""
    link_bps: Annotated[float, Bounds(0.0)]
    """Rate of the link to `via`, the first one on the way there."""
    expires_s: Annotated[float, Bounds(0.0)] = math.inf


class RoutingTable:
    """What the node of address `owner` knows of the others."""

    __slots__ = ("_entries", "_gone", "owner")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._entries: dict[str, Entry] = {}
        # Newest sequence number heard of addresses that were dropped or expired.
        self._gone: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, address: object) -> bool:
        return address in self._entries

    @property
    def gone(self) -> frozenset[str]:
        """Addresses that were here, or did not answer, and are not here now."""
        return frozenset(self._gone)

    @property
    def neighbours(self) -> list[str]:
        """Addresses that were heard directly."""
        heard = (address for address, entry in self._entries.items() if entry.via == address)
        return sorted(heard, key=address_order)

    def receive(self, advert: Advert, now_s: float, via: str, link_bps: float) -> Advert | None:
        """Take in an advert; returns what to pass on to the neighbours, None if nothing.

        Stored if its sequence number is newer than any heard from that address, or the same over a
        better path: fewer hops, then a faster link. A copy with more hops left than the one before
        is passed on again, since it reaches further. The same sequence number never holds longer
        than its first copy.

        `now_s` is virtual time, `via` the neighbour that sent it, `link_bps` the rate of the link
        to that.
        """
        address = advert.address
        if address == self.owner or advert.lifetime_s <= 0:
            return None
        expires_s, further = now_s + advert.lifetime_s, True
        known = self._entries.get(address)
        if known is None:
            if advert.sequence <= self._gone.get(address, NEVER_HEARD):
                return None
            self._gone.pop(address, None)
        elif advert.sequence < known.advert.sequence:
            return None
        elif advert.sequence == known.advert.sequence:
            path = (advert.hops_left, link_bps)
            if path <= (known.advert.hops_left, known.link_bps) or known.expires_s <= now_s:
                return None
            further = advert.hops_left > known.advert.hops_left
            expires_s = min(expires_s, known.expires_s)
        self._entries[address] = Entry(advert, via, link_bps, expires_s)
        if not further or advert.hops_left <= 0:
            return None
        return dataclasses.replace(advert, hops_left=advert.hops_left - 1)

    def expire(self, now_s: float) -> list[str]:
        """Remove the entries whose time is over; returns their addresses."""
        over = [address for address, e in self._entries.items() if e.expires_s <= now_s]
        for address in over:
            self.drop(address)
        return over

    def drop(self, address: str) -> None:
        """Forget a node that vanished; only a newer sequence number brings it back.

        One number an address is kept for that. An address that is not in the table is let be.
        """
        if entry := self._entries.pop(address, None):
            self._gone[address] = entry.advert.sequence

    def unreachable(self, neighbour: str) -> None:
        """Forget a neighbour that does not answer, and what could be reached through it alone.

        The addresses behind it may be announced again over another path, with the same sequence
        number; the neighbour itself only with a newer one.
        """
        self.drop(neighbour)
        self._gone.setdefault(neighbour, 0)
        self._entries = {a: entry for a, entry in self._entries.items() if entry.via != neighbour}

    def via(self, address: str) -> str:
        """Return the neighbour through which an address is reached: itself, if none is known."""
        return self._entries[address].via if address in self._entries else address

    def heads(self, walker: str) -> dict[str, str]:
        """Return the head of a walker's chain that each address has announced, if it has."""
        return {
            address: head.removeprefix(f"{walker}=")
            for address, entry in self._entries.items()
            for head in entry.advert.heads
            if head.startswith(f"{walker}=")
        }

    def candidates(
        self, now_s: float, last_visit: Mapping[str, int] | None = None
    ) -> list[Candidate]:
        """Return the nodes known at `now_s`, virtual time, in the order of their addresses.

        Neighbours or further away. `last_visit` is the hop at which the packet was last at an
        address, absent if never.
        """
        visits = last_visit or {}
        return [
            Candidate(
                **{name: getattr(entry.advert, name) for name in ANNOUNCED},
                link_bps=entry.link_bps,
                last_visit=visits.get(address, -1),
            )
            for address in sorted(self._entries, key=address_order)
            if (entry := self._entries[address]).expires_s > now_s
        ]

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the table as plain records by address, as a Flower context keeps them.

        Those of forgotten addresses have ``sequence`` alone.
        """
        present = {
            address: {**{how: getattr(e, how) for how in HOW}, "advert": e.advert.to_text()}
            for address, e in self._entries.items()
        }
        return present | {address: {"sequence": number} for address, number in self._gone.items()}

    @classmethod
    def from_entries(cls, owner: str, records: Mapping[str, Mapping[str, Any]]) -> Self:
        """Rebuild a table from `entries`; raises `AdvertError` for a record that is none."""
        table = cls(owner)
        for address, record in records.items():
            if record.keys() == {"sequence"}:
                number = checked("sequence", record["sequence"], Count, error=AdvertError)
                table._gone[address] = number
            else:
                text = checked("advert", record.get("advert"), str, error=AdvertError)
                advert = Advert.from_text(text)
                told = {**record, "advert": advert}
                table._entries[advert.address] = build(Entry, told, "", AdvertError)
        return table


ANNOUNCED = (
    *("address", "label_counts", "samples", "flops_per_s", "degree"),
    *("interest", "task", "loss", "sketch"),
)
"""What a candidate has from its advert."""
HOW = ("via", "link_bps", "expires_s")
"""What stands in a record beside the advert."""
