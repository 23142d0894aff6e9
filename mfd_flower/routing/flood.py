"""Spread adverts over a topology: what the nodes of a network do, in one loop without messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from mfd_flower.routing.adverts import Advert
from mfd_flower.routing.table import RoutingTable


class Spread(NamedTuple):
    """What a flood leaves behind."""

    tables: dict[str, RoutingTable]
    transmissions: int
    """Adverts sent over a link, each of which is one advert received: what is to be billed."""


def spread(
    topology: Mapping[str, Sequence[str]],
    adverts: Iterable[Advert],
    hops: int,
    now_s: float,
    *,
    tables: Mapping[str, RoutingTable] | None = None,
    link_bps: Callable[[str, str], float] = lambda sender, receiver: 1.0,
) -> Spread:
    """Flood each advert `hops` hops along the links, in rounds of one hop.

    Each node passes a new advert on to all neighbours but the one that it came from, so the number
    of transmissions is at most twice the number of links for an advert (2E - N + 1 if it reaches
    all of a connected graph), and the time is linear in the transmissions.

    Parameters
    ----------
    topology : mapping of str to sequence of str
        Neighbours of each address.
    adverts : iterable of Advert
        Each from an address in `topology`; their own `hops_left` is replaced.
    hops : int
        How many links an advert crosses, at least 1.
    now_s : float
        Virtual time of arrival.
    tables : mapping of str to RoutingTable, optional
        Tables to update in place; new ones for the addresses that have none.
    link_bps : callable
        Rate of the link between sender and receiver.
    """
    all_tables = dict(tables or {})
    for address in topology:
        if address not in all_tables:
            all_tables[address] = RoutingTable(address)
    transmissions = 0
    # What each node sends on in this round, and the neighbour each advert came from.
    outbox: dict[str, list[tuple[str, Advert]]] = {}
    for advert in adverts:
        origin = dataclasses.replace(advert, hops_left=hops - 1)
        outbox.setdefault(advert.address, []).append((advert.address, origin))
    while outbox:
        # By receiver, since one table after the other is several times kinder to the caches.
        senders: dict[str, list[str]] = {}
        for sender in outbox:
            for receiver in topology[sender]:
                senders.setdefault(receiver, []).append(sender)
        onward: dict[str, list[tuple[str, Advert]]] = {}
        for receiver, neighbours in senders.items():
            table, passed_on = all_tables[receiver], []
            for sender in neighbours:
                rate_bps = link_bps(sender, receiver)
                for came_from, advert in outbox[sender]:
                    if came_from == receiver:
                        continue
                    transmissions += 1
                    copy = table.receive(advert, now_s, sender, rate_bps)
                    if copy is not None:
                        passed_on.append((sender, copy))
            if passed_on:
                onward[receiver] = passed_on
        outbox = onward
    return Spread(all_tables, transmissions)
