"""The network between nodes, on Flower's star: it carries packets and lets timers go off.

It neither trains nor chooses. Where a packet goes stands in its header, which its holder wrote.
When a receiver does not answer, the holder's timer goes off (`query.again`), and the holder chooses
another node. If the holder is gone too, the ones before it are asked, in the order of the visit
record that the packet carried: each kept the version it sent on, so the walk resumes from the last
committed one. Several walkers are under way at once, and no node is asked to hold two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from mfd_flower.forwarding.admission import UNTAKEN, VERDICT
from mfd_flower.forwarding.announce import ANNOUNCE_LINKS, spread_adverts
from mfd_flower.forwarding.heads import SHOWN
from mfd_flower.forwarding.notary import LEDGER, RECEIPT
from mfd_flower.forwarding.post import TRIES, Post
from mfd_flower.ledger import Chains, receive, suffix, unpacked
from mfd_flower.packets import Packet, PacketError, restored
from mfd_flower.records import text, texts
from mfd_flower.runtime.metered_grid import MeteredGrid

Record = ArrayRecord | ConfigRecord | MetricRecord
FORWARDING_LINKS = {
    **ANNOUNCE_LINKS,
    "query.ack": "d2d",
    "query.again": "relay",
    "query.busy": "d2d",
    "query.chain": "d2d",
    "query.held": "d2d",
    "query.judge": "d2d",
    "query.ledger": "relay",
    "query.send": "d2d",
    "query.shown": "d2d",
    "train.hop": "d2d",
}
SUSPECT = 2
"""Receivers that cannot take a packet from which on the one who sends it is passed over."""
ROUNDS = 20
"""How often all holders are asked in turn before the walk counts as lost."""


class WalkFailedError(RuntimeError):
    """The walk cannot go on: no node that holds a committed version answers."""


@dataclass
class _Flight:
    """A packet on its way."""

    packet: Packet
    """As its holder made it, full."""
    content: RecordDict
    message_id: str
    arrives_s: float
    """Virtual time of its arrival."""
    due_s: float
    """Virtual time at which the receiver should be done with it."""


class Carrier:
    """Carries packets and control messages between nodes.

    Parameters
    ----------
    grid : MeteredGrid
        Engine and bill.
    topology : mapping of str to tuple of str
        Neighbours of each address.
    timeout_s : float
        Wall seconds after which a message counts as unanswered.
    deltas : bool
        Whether a holder asks the next one what it has, and sends only what changed since.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        topology: Mapping[str, tuple[str, ...]],
        timeout_s: float,
        deltas: bool = False,
    ) -> None:
        self._grid = grid
        self._topology = topology
        self._post = Post(grid, timeout_s)
        self._deltas = deltas
        self._flights: dict[str, _Flight] = {}
        self._visit_s: dict[str, float] = {}
        self.reroutes = 0
        self.not_taken: dict[tuple[str, int, str], list[str]] = {}
        """Reasons of receivers that could not take a packet, by its walker, hop and source."""

    @property
    def in_flight(self) -> int:
        """Packets on their way."""
        return len(self._flights)

    def exchange_adverts(self, hops: int = 1, sequence: int = 0, noise_epsilon: float = 0) -> None:
        """Fill the nodes' routing tables, see `announce.spread_adverts`."""
        heard = spread_adverts(
            self._topology, self._post.ask_all, hops, sequence, noise_epsilon, tries=TRIES
        )
        if not heard:
            raise WalkFailedError(f"no node announced itself; {self._post.last_reason()}")

    def launch(self, packet: Packet, content: RecordDict | None = None) -> None:
        """Send a packet to where its header says; nobody waits for the answer.

        Parameters
        ----------
        packet : Packet
            As its holder made it, full.
        content : RecordDict, optional
            The message it travels in, with the records beside it.
        """
        content = packet.to_record() if content is None else content
        busy = [flight.packet.destination for flight in self._flights.values()]
        if packet.destination in busy and packet.hop > 1:
            timer: dict[str, str | list[str]] = {"walker": packet.walker, "busy": busy}
            asked = RecordDict({"timer": ConfigRecord({**timer})})
            told = self._post.content(packet.source, "query.busy", asked)
            if told is not None and (moved := _whole(told, packet)) is not None:
                packet, content = moved, told
        sent = self._cut_down(packet, content) if self._deltas and packet.hop > 1 else content
        request = self._post.request(packet.destination, _kind(packet), sent)
        (message_id,) = self._grid.push_messages([request])
        arrives_s = self._grid.arrival_s(message_id)
        due_s = arrives_s + self._visit_s.get(packet.destination, 0.0)
        self._flights[packet.walker] = _Flight(packet, content, message_id, arrives_s, due_s)

    def collect(self) -> tuple[Packet, RecordDict]:
        """Wait for the packet that is due first in virtual time, by detours if need be.

        The order is that of the virtual clock, so that a run does not depend on which thread or
        machine was quicker. The others go on meanwhile.

        Returns
        -------
        packet : Packet
            What its receiver hands on, full; the same one if it had only to judge it.
        content : RecordDict
            The message to send it on in, or the verdict.

        Raises
        ------
        WalkFailedError
            If neither the receiver nor anybody who held the packet before answers.
        """
        walker = min(self._flights, key=lambda name: (self._flights[name].due_s, name))
        flight = self._flights[walker]
        reply = self._post.wait(flight.message_id)
        found = self._landed(flight.packet, flight.content, reply)
        if VERDICT not in found[1]:
            holder = found[0].source
            self._visit_s[holder] = self._grid.ready_s(holder) - flight.arrives_s
        del self._flights[walker]
        return found

    def _landed(
        self, packet: Packet, content: RecordDict, reply: Message | None
    ) -> tuple[Packet, RecordDict]:
        """Return what the receiver made of a packet, or after detours another one."""
        arrived = self._handed_over(packet, content, reply)
        for _ in range(ROUNDS):
            if arrived is not None:
                receipt = arrived[1].pop(RECEIPT, None)
                if packet.hop > 1:
                    self._acknowledge(packet, receipt)
                return arrived
            self.reroutes += 1
            before = packet.hop
            packet, content = self._sent_again(packet, content)
            if packet.hop > before:
                # The receiver had done its part, only its word was lost: a holder that is asked
                # sends on the newest version it has.
                return packet, content
            arrived = self._handed_over(packet, content)
        raise WalkFailedError(
            f"hop {packet.hop}: not delivered in {ROUNDS} rounds; {self._post.last_reason()}"
        )

    def _handed_over(
        self, packet: Packet, content: RecordDict, reply: Message | None = None
    ) -> tuple[Packet, RecordDict] | None:
        """Send a packet until its receiver has answered with a whole one, or seems gone.

        `reply` is the answer to the first try if that has been made. Later ones are sent whole:
        whatever the receiver holds, it can read them.
        """
        asked_whole = False
        for attempt in range(TRIES):
            if attempt or reply is None:
                reply = self._post.ask(packet.destination, _kind(packet), content)
            if reply is None:
                continue
            if reply.has_error():
                if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                    return None
                continue
            if UNTAKEN in reply.content:
                whole = None if asked_whole else self._with_whole_chain(packet, reply)
                if whole is None:
                    self._note_not_taken(packet, reply)
                    return None
                asked_whole, content = True, whole
                continue
            if VERDICT in reply.content:
                return packet, reply.content
            if (arrived := _whole(reply.content, packet)) is not None:
                return arrived, reply.content
            # Damaged on its way back: the receiver has it in custody and sends it again.
        return None

    def _sent_again(self, packet: Packet, content: RecordDict) -> tuple[Packet, RecordDict]:
        """Let the timers of those who held the packet go off until one answers."""
        if packet.hop == 1:
            # Nobody has held it yet: the one who made it picks the next node to begin at.
            order = list(self._topology)
            after = order[(order.index(packet.destination) + 1) % len(order)]
            moved = replace(packet, destination=after)
            return moved, moved.to_record()
        refusers = self.not_taken.get(_flight_name(packet), [])
        for place, holder in enumerate(_holders(packet)):
            if place == 0 and len(refusers) >= SUSPECT:
                continue
            timer: dict[str, str | bool] = {"walker": packet.walker}
            if place == 0:
                timer["failed"] = packet.destination
            else:
                timer |= {"lost": True, "failed": packet.source}
                timer |= {"spent": True} if len(refusers) >= SUSPECT else {}
            for _ in range(TRIES):
                asked = RecordDict({"timer": ConfigRecord({**timer})})
                reply = self._post.ask(holder, "query.again", asked)
                if reply is None:
                    continue
                if reply.has_error():
                    break
                if (kept := _whole(reply.content, packet)) is not None:
                    return kept, reply.content
        # Nobody answered in this round; the packet is still where it was.
        return packet, content

    def ledger(self, packets: Iterable[Packet], judged: bool) -> str:
        """Ask who held each walker last for its replica; for the experimenter, outside the bill.

        Parameters
        ----------
        packets : iterable of Packet
            The last of each walker.
        judged : bool
            Whether their receivers have taken them.

        Returns
        -------
        str
            All chains, one entry a line, as far as anybody answers.
        """
        chains = Chains()
        for packet in packets:
            for holder in ([packet.destination] if judged else []) + _holders(packet):
                told = self._post.insist(holder, "query.ledger", RecordDict())
                if told is not None:
                    receive(chains, unpacked(told.config_records[LEDGER]["lines"]))
                    break
        return suffix(chains)

    def _with_whole_chain(self, packet: Packet, doubt: Message) -> RecordDict | None:
        """Let the holder send the whole chain to a receiver that could not attach what it lacked.

        Who announced a head that the chain does not reach is asked to show the entry, and its
        answer travels along, empty if there is none. None if there is no holder yet, or it does
        not answer.
        """
        if packet.hop == 1:
            return None
        ask = RecordDict({"ask": ConfigRecord({"walker": packet.walker})})
        whole = self._post.content(packet.source, "query.chain", ask)
        if whole is None:
            return None
        told = doubt.content.config_records[UNTAKEN]
        for announcer in texts(told, "announcers") if "announcers" in told else ():
            answer = self._post.insist(announcer, "query.shown", RecordDict())
            whole[f"{SHOWN}/{announcer}"] = answer[SHOWN] if answer else ConfigRecord()
        return whole

    def _note_not_taken(self, packet: Packet, reply: Message) -> None:
        reason = text(reply.content.config_records[UNTAKEN], "reason")
        self.not_taken.setdefault(_flight_name(packet), []).append(reason)

    def _cut_down(self, packet: Packet, content: RecordDict) -> RecordDict:
        """Let holder and receiver agree on a delta; the whole packet if they do not."""
        offer = RecordDict({"offer": ConfigRecord({"walker": packet.walker})})
        held = self._post.content(packet.destination, "query.held", offer)
        if held is None:
            return content
        return self._post.content(packet.source, "query.send", held) or content

    def _acknowledge(self, packet: Packet, receipt: Record | None) -> None:
        told = ConfigRecord({"walker": packet.walker, "hop": packet.hop})
        records: dict[str, Record] = {"ack": told}
        if receipt is not None:
            records[RECEIPT] = receipt
        self._post.ask(packet.source, "query.ack", RecordDict(records))


def _kind(packet: Packet) -> str:
    """Return the type of the message that a packet travels in: with no hop left it is judged."""
    return "train.hop" if packet.ttl else "query.judge"


def _holders(packet: Packet) -> list[str]:
    """Return who had a packet, its sender first, then the ones before."""
    return list(dict.fromkeys([packet.source, *reversed(packet.visited)]))


def _flight_name(packet: Packet) -> tuple[str, int, str]:
    return packet.walker, packet.hop, packet.source


def _whole(content: RecordDict, before: Packet) -> Packet | None:
    """Return the packet in a reply if every bit of it is as its sender made it."""
    try:
        packet = restored(Packet.from_record(content), before)
        packet.decoded()
    except PacketError:
        return None
    return packet
