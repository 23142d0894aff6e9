"""Every version is signed into a ledger of which each node has a replica (whitepaper, 2.6).

A packet brings the entries that its receiver lacks, the receiver signs for what it took over, and
adverts carry how far a node has seen each chain, so that a chain that was cut off is found out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.ledger import Chains, LedgerError, packed, receive, suffix, unpacked
from mfd_flower.packets import Packet
from mfd_flower.records import text, texts
from mfd_flower.routing import Candidate
from mfd_flower.walk.custody import FOR_SENDER
from mfd_flower.walk.heads import SHOWN, CutOffError, check_heads, own_heads
from mfd_flower.walk.node_ledger import LEDGER, dropped
from mfd_flower.walk.trait import Layer, Trait, UntakenError
from mfd_flower.walk.visit import Visit

if TYPE_CHECKING:
    from mfd_flower.walk.relay import Relay


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

    def doubted(self, relay: Relay, packet: Packet, told: ConfigRecord) -> RecordDict | None:
        """Let the holder send the whole chain; who announced an unreached head is asked for it.

        Its answer travels along, empty if there is none.
        """
        ask = RecordDict({"ask": ConfigRecord({"walker": packet.walker})})
        whole = relay.requests.content(packet.source, "query.chain", ask)
        if whole is None:
            return None
        for announcer in texts(told, "told") if "told" in told else ():
            answer = relay.requests.insist(announcer, "query.shown", RecordDict())
            whole[f"{SHOWN}/{announcer}"] = answer[SHOWN] if answer else ConfigRecord()
        return whole

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Ask who held each walker last for its replica; for the experimenter, outside the bill."""
        chains = Chains()
        for packet in landed:
            for holder in relay.last_holders(packet):
                told = relay.requests.insist(holder, "query.ledger", RecordDict())
                if told is not None:
                    receive(chains, unpacked(told.config_records[SHOWN]["lines"]))
                    break
        return {"replica": suffix(chains)}
