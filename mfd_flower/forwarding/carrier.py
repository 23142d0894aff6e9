"""The network between nodes, on Flower's star: it carries packets and lets timers go off.

It neither trains nor chooses. Where a packet goes stands in its header, which its holder wrote.
When a receiver does not answer, the holder's timer goes off (`query.again`), and the holder chooses
another node. If the holder is gone too, the ones before it are asked, in the order of the visit
record that the packet carried: each kept the version it sent on, so the walk resumes from the last
committed one. Several walkers are under way at once, and no node is asked to hold two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from mfd_flower.forwarding.announce import ANNOUNCE_LINKS, Requests, spread_adverts
from mfd_flower.packets import Packet, PacketError, restored
from mfd_flower.runtime.metered_grid import MeteredGrid

FORWARDING_LINKS = {
    **ANNOUNCE_LINKS,
    "query.ack": "d2d",
    "query.again": "relay",
    "query.busy": "d2d",
    "query.held": "d2d",
    "query.send": "d2d",
    "train.hop": "d2d",
}
TRIES = 3
"""How often a message that got no answer is repeated before its receiver counts as gone."""
ROUNDS = 20
"""How often all holders are asked in turn before the walk counts as lost."""
POLL_S = 0.002


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
        self._timeout_s = timeout_s
        self._deltas = deltas
        self._flights: dict[str, _Flight] = {}
        self._visit_s: dict[str, float] = {}
        self.reroutes = 0

    @property
    def in_flight(self) -> int:
        """Packets on their way."""
        return len(self._flights)

    def exchange_adverts(self, hops: int = 1, sequence: int = 0, noise_epsilon: float = 0) -> None:
        """Fill the nodes' routing tables, see `announce.spread_adverts`."""
        heard = spread_adverts(
            self._topology, self._ask_all, hops, sequence, noise_epsilon, tries=TRIES
        )
        if not heard:
            raise WalkFailedError(f"no node announced itself; {self._last_reason()}")

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
            reply = self._send(packet.source, "query.busy", asked)
            if reply is not None and (moved := _whole(reply, packet)) is not None:
                packet, content = moved, reply.content
        sent = self._cut_down(packet, content) if self._deltas and packet.hop > 1 else content
        request = self._request(packet.destination, "train.hop", sent)
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
            What its receiver hands on, full.
        content : RecordDict
            The message to send it on in.

        Raises
        ------
        WalkFailedError
            If neither the receiver nor anybody who held the packet before answers.
        """
        walker = min(self._flights, key=lambda name: (self._flights[name].due_s, name))
        flight = self._flights[walker]
        reply = self._wait(flight.message_id)
        found = self._landed(flight.packet, flight.content, reply)
        self._visit_s[found[0].source] = self._grid.ready_s(found[0].source) - flight.arrives_s
        del self._flights[walker]
        return found

    def _landed(
        self, packet: Packet, content: RecordDict, reply: Message | None
    ) -> tuple[Packet, RecordDict]:
        """Return what the receiver made of a packet, or after detours another one."""
        arrived = self._handed_over(packet, content, reply)
        for _ in range(ROUNDS):
            if arrived is not None:
                if packet.hop > 1:
                    self._acknowledge(packet)
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
            f"hop {packet.hop}: not delivered in {ROUNDS} rounds; {self._last_reason()}"
        )

    def _handed_over(
        self, packet: Packet, content: RecordDict, reply: Message | None = None
    ) -> tuple[Packet, RecordDict] | None:
        """Send a packet until its receiver has answered with a whole one, or seems gone.

        `reply` is the answer to the first try if that has been made. Later ones are sent whole:
        whatever the receiver holds, it can read them.
        """
        for attempt in range(TRIES):
            if attempt or reply is None:
                reply = self._send(packet.destination, "train.hop", content)
            if reply is None:
                continue
            if reply.has_error():
                if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                    return None
                continue
            if (arrived := _whole(reply, packet)) is not None:
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
        holders = dict.fromkeys([packet.source, *reversed(packet.visited)])
        for place, holder in enumerate(holders):
            timer: dict[str, str | bool] = {"walker": packet.walker}
            if place == 0:
                timer["failed"] = packet.destination
            else:
                timer |= {"lost": True, "failed": packet.source}
            for _ in range(TRIES):
                reply = self._send(
                    holder, "query.again", RecordDict({"timer": ConfigRecord({**timer})})
                )
                if reply is None:
                    continue
                if reply.has_error():
                    break
                if (kept := _whole(reply, packet)) is not None:
                    return kept, reply.content
        # Nobody answered in this round; the packet is still where it was.
        return packet, content

    def _cut_down(self, packet: Packet, content: RecordDict) -> RecordDict:
        """Let holder and receiver agree on a delta; the whole packet if they do not."""
        offer = RecordDict({"offer": ConfigRecord({"walker": packet.walker})})
        reply = self._send(packet.destination, "query.held", offer)
        if reply is None or not reply.has_content():
            return content
        reply = self._send(packet.source, "query.send", reply.content)
        return reply.content if reply is not None and reply.has_content() else content

    def _last_reason(self) -> str:
        reasons = self._grid.failures
        return f"last reason: {reasons[-1] if reasons else 'no answer in time'}"

    def _acknowledge(self, packet: Packet) -> None:
        told = ConfigRecord({"walker": packet.walker, "hop": packet.hop})
        self._send(packet.source, "query.ack", RecordDict({"ack": told}))

    def _request(self, address: str, kind: str, content: RecordDict) -> Message:
        return Message(content, self._grid.node_id(address), kind)

    def _send(self, address: str, kind: str, content: RecordDict) -> Message | None:
        request = self._request(address, kind, content)
        replies = list(self._grid.send_and_receive([request], timeout=self._timeout_s))
        return replies[0] if replies else None

    def _wait(self, message_id: str) -> Message | None:
        end_s = time.monotonic() + self._timeout_s
        while time.monotonic() < end_s:
            if replies := list(self._grid.pull_messages([message_id])):
                return replies[0]
            time.sleep(POLL_S)
        return None

    def _ask_all(self, requests: Requests) -> dict[str, RecordDict]:
        messages = [
            self._request(address, kind, RecordDict({**records}))
            for address, (kind, records) in requests.items()
        ]
        replies = self._grid.send_and_receive(messages, timeout=self._timeout_s)
        return {
            self._grid.address(reply.metadata.src_node_id): reply.content
            for reply in replies
            if reply.has_content()
        }


def _whole(reply: Message, before: Packet) -> Packet | None:
    """Return the packet in a reply if every bit of it is as its sender made it."""
    if not reply.has_content():
        return None
    try:
        packet = restored(Packet.from_record(reply.content), before)
        packet.decoded()
    except PacketError:
        return None
    return packet
