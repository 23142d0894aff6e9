"""Heads of the ledger that travel with adverts: how a receiver learns that a chain was cut off.

A holder that sends on an old version with an old chain deceives only who has not seen the newer
one. So nodes announce how far they have seen each chain, and a packet whose chain does not reach an
announced head is not taken. Anybody can announce anything: the announcer has to show the entry, and
one that cannot, or does not answer, is not believed and leaves the table.

The last entries of a chain are announced by nobody (`NodeLedger.settled`): when holders die, the
walk resumes before them.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from mfd_flower.ledger import Chains, LedgerError, unpacked
from mfd_flower.packets import Packet
from mfd_flower.routing import RoutingTable
from mfd_flower.routing.adverts import MAX_HEADS
from mfd_flower.walk.node_ledger import NodeLedger, chain_of

SHOWN = "shown"


class CutOffError(LedgerError):
    """A chain does not reach heads that `announcers` announced, who are to be asked for them."""

    def __init__(self, chain: str, announcers: tuple[str, ...]) -> None:
        names = ", ".join(announcers)
        super().__init__("cut-off", f"{chain}: does not reach the head that {names} announced")
        self.announcers = announcers


def own_heads(ledger: NodeLedger) -> tuple[str, ...]:
    """Return how far this node has seen each chain, as its advert carries it: ``walker=hash``."""
    seen = ((tip.walker, ledger.settled(name)) for name, tip in ledger.chains.tips.items())
    return tuple(sorted(f"{walker}={entry.hash}" for walker, entry in seen if entry)[:MAX_HEADS])


def check_heads(
    ledger: NodeLedger, packet: Packet, content: RecordDict, table: RoutingTable
) -> list[str]:
    """Hold the chain that came with a packet against the heads that were announced.

    A record ``shown/<address>`` in the message has what an announcer answered that was asked.
    Returns the announcers that could not show what they had announced. Raises `CutOffError` if
    heads are not reached and their announcers have not been asked; `LedgerError`, ``cut-off`` or
    ``fork``, if an announcer has shown the entry.
    """
    chain = chain_of(packet)
    unasked: list[str] = []
    idle: list[str] = []
    for address, head in table.heads(packet.walker).items():
        if ledger.chains.has(head):
            continue
        answer = content.config_records.get(f"{SHOWN}/{address}")
        if answer is not None:
            _check_answer(ledger, chain, address, head, answer)
        (unasked if answer is None else idle).append(address)
    if unasked:
        raise CutOffError(chain, tuple(unasked))
    return idle


def _check_answer(
    ledger: NodeLedger, chain: str, address: str, head: str, answer: ConfigRecord
) -> None:
    """Raise what the shown entry proves; nothing if the answer does not show it."""
    theirs = Chains(members=ledger.members)
    try:
        theirs.extend(unpacked(answer.get("lines", b"")).splitlines())
    except LedgerError:
        return
    entry = theirs.find(head)
    if entry is None or entry.chain != chain:
        return
    stands_at = ledger.chains.tips[chain].place
    reason = "cut-off" if entry.place > stands_at else "fork"
    said = f"{address} shows place {entry.place}, what came ends at place {stands_at} without it"
    raise LedgerError(reason, f"{chain}: {said}")
