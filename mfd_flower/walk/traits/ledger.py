"""Every version is signed into a ledger of which each node has a replica (whitepaper, 2.6).

A packet brings the entries that its receiver lacks, and the receiver signs for what it took over.

A holder that sends on an old version with an old chain deceives only who has not seen the newer
one. So adverts carry how far a node has seen each chain, and a packet whose chain does not reach an
announced head is not taken. Anybody can announce anything: the announcer has to show the entry, and
one that cannot, or does not answer, is not believed and leaves the table. The last entries of a
chain are announced by nobody (`NodeLedger.settled`): when holders die, the walk resumes before
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.ledger import Chains, LedgerError, packed, receive, suffix, unpacked
from mfd_flower.packets import Packet
from mfd_flower.records import text, texts
from mfd_flower.routing import Candidate, RoutingTable
from mfd_flower.routing.adverts import MAX_HEADS
from mfd_flower.walk.custody import FOR_SENDER
from mfd_flower.walk.node_ledger import LEDGER, NodeLedger, chain_of, dropped
from mfd_flower.walk.requests import TRIES
from mfd_flower.walk.trait import Layer, Trait, UntakenError
from mfd_flower.walk.visit import Visit

if TYPE_CHECKING:
    from mfd_flower.walk.relay import Relay


SHOWN = "shown"
"""Record of an entry that an announcer shows; with its address where it travels on."""


class CutOffError(LedgerError):
    """A chain does not reach heads that `announcers` announced, who are to be asked for them."""

    def __init__(self, chain: str, announcers: tuple[str, ...]) -> None:
        names = ", ".join(announcers)
        super().__init__("cut-off", f"{chain}: does not reach the head that {names} announced")
        self.announcers = announcers


def send_whole(message: Message, context: Context) -> Message:
    """Send the packet in custody with its whole chain, to a receiver that could not attach less."""
    visit = Visit.again(context, text(message.content.config_records["ask"], "walker"))
    content = visit.outgoing(whole=True)
    visit.save()
    return Message(content, reply_to=message)


def show_ledger(message: Message, context: Context) -> Message:
    """Hand out this node's replica: to the experimenter, or to a node that doubts a head of it."""
    visit = Visit.of(context)
    proof = ConfigRecord({"lines": packed(suffix(visit.ledger.chains))})
    visit.save()
    return Message(RecordDict({SHOWN: proof}), reply_to=message)


@dataclass(frozen=True)
class Ledger(Trait):
    """Sign, verify, replicate."""

    layer: ClassVar[Layer] = Layer.SIGNATURE
    actions: ClassVar = {
        "query.chain": send_whole,
        "query.ledger": show_ledger,
        "query.shown": show_ledger,
    }
    links: ClassVar = {"query.chain": "d2d", "query.ledger": "relay", "query.shown": "d2d"}

    def advertise(self, visit: Visit) -> Mapping[str, Any]:
        """Announce how far this node has seen the chains; nothing without a replica."""
        return {"heads": own_heads(visit.ledger)} if LEDGER in visit.context.state else {}

    def arrive(self, visit: Visit) -> None:
        """Verify what came beside the packet, and sign for it."""
        try:
            made = visit.ledger.take(visit.packet, visit.content)
            for address in check_heads(visit.ledger, visit.packet, visit.content, visit.table):
                visit.table.drop(address)
                visit.table_changed = True
        except LedgerError as error:
            told = error.announcers if isinstance(error, CutOffError) else ()
            raise UntakenError(error.reason, str(error), told) from error
        if visit.packet.hop > 1:
            visit.answers[FOR_SENDER] = visit.ledger.receipt(made.hash)

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Leave out the way over authors whose versions nobody takes any more."""
        left_out = dropped(visit.ledger.chains.entries)
        return [c for c in candidates if visit.table.via(c.address) not in left_out]

    def depart(self, visit: Visit) -> None:
        """Sign the version that this node made."""
        visit.ledger.sign_version(visit.start, visit.onward, visit.merged, visit.claims)

    def send(self, visit: Visit, content: RecordDict, whole: bool) -> None:
        """Add the entries that the receiver lacks."""
        content[LEDGER] = visit.ledger.beside(visit.onward, whole)

    def settled(self, visit: Visit, walker: str, receipt: ConfigRecord) -> None:
        """Keep the receiver's signature until its own entry is seen."""
        if receipt:
            visit.ledger.keep_receipt(receipt, walker)

    def undelivered(self, visit: Visit, receiver: str) -> None:
        """Void what the receiver of a tour's packet may have made of it, so that it may again."""
        if visit.onward.tour:
            visit.ledger.void(visit.onward, receiver)

    def doubted(self, relay: Relay, packet: Packet, told: ConfigRecord) -> RecordDict | None:
        """Let the holder send the whole chain; who announced an unreached head is asked for it.

        Its answer travels along, empty if there is none.
        """
        ask = RecordDict({"ask": ConfigRecord({"walker": packet.walker})})
        asker = packet.destination
        whole = relay.requests.content(packet.source, "query.chain", ask, asker)
        if whole is None:
            return None
        for announcer in texts(told, "told") if "told" in told else ():
            answer = relay.requests.insist(announcer, "query.shown", RecordDict(), asker)
            whole[f"{SHOWN}/{announcer}"] = answer[SHOWN] if answer else ConfigRecord()
        return whole

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Ask who held each walker last for its replica; for the experimenter, outside the bill."""
        chains = Chains()
        for packet in landed:
            asked = (holder for holder in relay.last_holders(packet) for _ in range(TRIES))
            for holder in asked:
                told = relay.requests.insist(holder, "query.ledger", RecordDict())
                # Cut off on its way, it is asked for again.
                with suppress(LedgerError):
                    if told is not None:
                        receive(chains, unpacked(told.config_records[SHOWN]["lines"]))
                        break
        return {"replica": suffix(chains)}


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
