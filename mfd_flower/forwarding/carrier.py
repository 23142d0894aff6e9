"""The network between nodes, on Flower's star: it carries packets and lets timers go off.

It neither trains nor chooses. Where a packet goes stands in its header, which its holder wrote.
When a receiver does not answer, the holder's timer goes off (`query.again`), and the holder chooses
another node. If the holder is gone too, the ones before it are asked, in the order of the visit
record that the packet carried: each kept the version it sent on, so the walk resumes from the last
committed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from mfd_flower.packets import Packet, PacketError
from mfd_flower.runtime.metered_grid import MeteredGrid

FORWARDING_LINKS = {
    "query.advert": "relay",
    "query.table": "d2d",
    "query.ack": "d2d",
    "query.again": "relay",
    "train.hop": "d2d",
}
TRIES = 3
"""How often a message that got no answer is repeated before its receiver counts as gone."""
ROUNDS = 20
"""How often all holders are asked in turn before the walk counts as lost."""


class WalkFailedError(RuntimeError):
    """The walk cannot go on: no node that holds a committed version answers."""


class Carrier:
    """Carries packets and control messages between nodes.

    Parameters
    ----------
    grid : MeteredGrid
        Engine and bill.
    topology : mapping of str to tuple of str
        Neighbours of each address: adverts reach no further.
    timeout_s : float
        Wall seconds after which a message counts as unanswered.
    """

    def __init__(
        self, grid: MeteredGrid, topology: Mapping[str, tuple[str, ...]], timeout_s: float
    ) -> None:
        self._grid = grid
        self._topology = topology
        self._timeout_s = timeout_s
        self.reroutes = 0

    def exchange_adverts(self) -> int:
        """Carry every node's advert to its neighbours; returns the number of classes.

        A node that does not announce itself in `TRIES` tries stays out of its neighbours' tables.
        """
        adverts: dict[str, ConfigRecord] = {}
        for _ in range(TRIES):
            silent = [address for address in self._topology if address not in adverts]
            for address, reply in self._ask_all(
                {
                    a: ("query.advert", {"ask": ConfigRecord({"degree": len(self._topology[a])})})
                    for a in silent
                }
            ).items():
                adverts[address] = reply.config_records["advert"]
        if not adverts:
            raise WalkFailedError(f"no node announced itself; {self._last_reason()}")
        waiting = {
            address: {other: adverts[other] for other in neighbours if other in adverts}
            for address, neighbours in self._topology.items()
        }
        for _ in range(TRIES):
            heard = self._ask_all({a: ("query.table", r) for a, r in waiting.items() if r})
            waiting = {a: records for a, records in waiting.items() if a not in heard}
        return max(len(list(record.get("label_counts", []))) for record in adverts.values())  # type: ignore[arg-type]

    def deliver(self, packet: Packet, extra: RecordDict | None = None) -> tuple[Packet, RecordDict]:
        """Deliver a packet to where its header says, by detours if need be.

        Parameters
        ----------
        packet : Packet
            As its holder sent it.
        extra : RecordDict, optional
            All records of the holder's message, with those that travel beside the packet.

        Returns
        -------
        packet : Packet
            What the receiver hands on.
        content : RecordDict
            The message it came in.

        Raises
        ------
        WalkFailedError
            If neither the receiver nor anybody who held the packet before answers.
        """
        content = extra if extra is not None else packet.to_record()
        for _ in range(ROUNDS):
            found = self._hand_over(packet, content)
            if found is not None:
                if packet.hop > 1:
                    self._acknowledge(packet)
                return found
            self.reroutes += 1
            before = packet.hop
            packet, content = self._sent_again(packet, content)
            if packet.hop > before:
                # The receiver had done its part, only its word was lost: a holder that is asked
                # sends on the newest version it has.
                return packet, content
        raise WalkFailedError(
            f"hop {packet.hop}: not delivered in {ROUNDS} rounds; {self._last_reason()}"
        )

    def _hand_over(self, packet: Packet, content: RecordDict) -> tuple[Packet, RecordDict] | None:
        """Send a packet until its receiver has answered with a whole one, or seems gone."""
        for _ in range(TRIES):
            reply = self._send(packet.destination, "train.hop", content)
            if reply is None:
                continue
            if reply.has_error():
                if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                    return None
                continue
            if (arrived := _whole(reply.content)) is not None:
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
                if (kept := _whole(reply.content)) is not None:
                    return kept, reply.content
        # Nobody answered in this round; the packet is still where it was.
        return packet, content

    def _last_reason(self) -> str:
        reasons = self._grid.failures
        return f"last reason: {reasons[-1] if reasons else 'no answer in time'}"

    def _acknowledge(self, packet: Packet) -> None:
        told = ConfigRecord({"walker": packet.walker, "hop": packet.hop})
        self._send(packet.source, "query.ack", RecordDict({"ack": told}))

    def _send(self, address: str, kind: str, content: RecordDict) -> Message | None:
        request = Message(content, self._grid.node_id(address), kind)
        replies = list(self._grid.send_and_receive([request], timeout=self._timeout_s))
        return replies[0] if replies else None

    def _ask_all(
        self, requests: Mapping[str, tuple[str, Mapping[str, ConfigRecord]]]
    ) -> dict[str, RecordDict]:
        messages = []
        for address, (kind, records) in requests.items():
            content = RecordDict()
            for name, record in records.items():
                content[name] = record
            messages.append(Message(content, self._grid.node_id(address), kind))
        replies = self._grid.send_and_receive(messages, timeout=self._timeout_s)
        return {
            self._grid.address(reply.metadata.src_node_id): reply.content
            for reply in replies
            if reply.has_content()
        }


def _whole(content: RecordDict) -> Packet | None:
    """Return the packet in a message if every bit of it is as its sender made it."""
    try:
        packet = Packet.from_record(content)
        packet.decoded()
    except PacketError:
        return None
    return packet
