"""The network between nodes, on Flower's star: it carries packets and lets timers go off.

It neither trains nor chooses. Where a packet goes stands in its header, which its holder wrote.
When a receiver does not answer, the holder's timer goes off (`query.again`), and the holder chooses
another node. If the holder is gone too, the ones before it are asked, in the order of the visit
record that the packet carried: each kept the version it sent on, so the walk resumes from the last
committed one. Several walkers are under way at once, and no node is asked to hold two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from mfd_flower.network.world import World
from mfd_flower.packets import Packet, PacketError, restored
from mfd_flower.records import joined, part_of, plain_record, plain_values, text, texts
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.walk.announce import exchange, pull
from mfd_flower.walk.custody import FOR_SENDER, PACKET, UNTAKEN, VERDICT, packet_in, sealed
from mfd_flower.walk.forwarding import Ways
from mfd_flower.walk.members import established
from mfd_flower.walk.next_hop import PROBE
from mfd_flower.walk.plan import Plan
from mfd_flower.walk.requests import TRIES, Requests

SUSPECT = 2
"""Receivers that cannot take a packet from which on the one who sends it is passed over."""
ROUNDS = 20
"""How often all holders are asked in turn before the walk counts as lost."""


class WalkFailedError(RuntimeError):
    """The walk cannot go on: no node that holds a committed version answers."""


@dataclass
class _Flight:
    """A full packet on its way: when it arrives, and when its receiver should be done with it."""

    packet: Packet
    content: RecordDict
    message_id: str
    arrives_s: float
    due_s: float

    @property
    def told(self) -> dict[str, Any]:
        """What is not of the packet itself."""
        return {name: getattr(self, name) for name in ("message_id", "arrives_s", "due_s")}


class Relay:
    """Carries packets and control messages between nodes.

    `world` says who is whose neighbour; after `timeout_s` of wall time a message is unanswered.
    """

    def __init__(self, grid: MeteredGrid, plan: Plan, world: World, timeout_s: float) -> None:
        self._grid = grid
        self._plan = plan
        self._world = world
        self.addresses = [f"n{index}" for index in range(plan.nodes)]
        self._flights: dict[str, _Flight] = {}
        self._visit_s: dict[str, float] = {}
        self.requests = Requests(grid, timeout_s)
        self._ways = Ways(self.requests, self.addresses, plan.policy.forward)
        self.not_taken: dict[tuple[str, int, str], list[str]] = {}
        """Reasons of receivers that could not take a packet, by its walker, hop and source."""

    def state_dict(self) -> RecordDict:
        """Return what is under way, when none of the receivers is at work any more."""
        flights = {
            walker: joined(
                {
                    "packet": RecordDict({PACKET: sealed(flight.packet)}),
                    "content": flight.content,
                    "sent": RecordDict({"sent": plain_record(flight.told)}),
                }
            )
            for walker, flight in self._flights.items()
        }
        not_taken = [[*name, reasons] for name, reasons in self.not_taken.items()]
        learnt = plain_record(
            {"visit_s": self._visit_s, "ways": self._ways.taken, "not_taken": not_taken}
        )
        return joined({"flights": joined(flights), "learnt": RecordDict({"learnt": learnt})})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on from `state_dict`; the replies that it waits for come through the grid."""
        learnt = plain_values(part_of(state, "learnt").config_records["learnt"])
        self._visit_s, self._ways.taken = learnt["visit_s"], learnt["ways"]
        self.not_taken = {(w, hop, source): r for w, hop, source, r in learnt["not_taken"]}
        flights = part_of(state, "flights")
        for walker in dict.fromkeys(name.partition("/")[0] for name in flights):
            flight = part_of(flights, walker)
            told = plain_values(part_of(flight, "sent").config_records["sent"])
            packet, content = packet_in(part_of(flight, "packet")), part_of(flight, "content")
            self._flights[walker] = _Flight(packet, content, **told)

    @property
    def in_flight(self) -> int:
        """Packets on their way."""
        return len(self._flights)

    def announce(self, sequence: int) -> None:
        """Fill the nodes' routing tables, see `announce.exchange`; of a collaboration set's."""
        policy, those = self._plan.policy, self.addresses
        now_s = self._grid.virtual_seconds
        if policy.area:
            area = self._world.area(self.addresses[policy.start_node], 0.0)
            those = established(self.requests, self._world, self.addresses, area, now_s)
        if not policy.advert_hops:
            return
        members, near = set(those), self._world.neighbours
        topology = {a: tuple(b for b in near(a, now_s) if b in members) for a in those}
        if not exchange(self.requests, topology, self._plan.policy, sequence):
            raise WalkFailedError(f"no node announced itself; {self.requests.last_reason()}")

    def launch(self, packet: Packet, content: RecordDict | None = None) -> None:
        """Send a full packet to where its header says; nobody waits for the answer.

        `content` is the message that its holder sent it in, with the records beside it.
        """
        content = RecordDict({PACKET: sealed(packet)}) if content is None else content
        packet, content = self._with_adverts(packet, content)
        busy = [flight.packet.destination for flight in self._flights.values()]
        if packet.destination in busy and packet.hop > 1:
            timer = ConfigRecord({"walker": packet.walker, "busy": busy})
            told = self.requests.content(
                packet.source, "query.busy", RecordDict({"timer": timer}), packet.destination
            )
            if told is not None and (moved := _whole(told, packet)) is not None:
                packet, content = moved, told
        sent = content
        if packet.hop > 1:
            for trait in self._plan.traits:
                sent = trait.carry(self, packet, sent)
        message_id, arrives_s = "", self._grid.ready_s(packet.source)
        if (link := self._ways.last_link(packet, sent)) is not None:
            message_id = self.requests.push(packet.destination, _kind(packet), *link)
            arrives_s = self._grid.arrival_s(message_id)
        due_s = arrives_s + self._visit_s.get(packet.destination, 0.0)
        self._flights[packet.walker] = _Flight(packet, content, message_id, arrives_s, due_s)

    def _with_adverts(self, packet: Packet, content: RecordDict) -> tuple[Packet, RecordDict]:
        """Carry the adverts that a holder asks for, and return what it sends then."""
        record = content.pop(PROBE, None)
        if not isinstance(record, ConfigRecord):
            return packet, content
        # Of all that nodes tell, losses alone change.
        sequence = packet.hop if self._plan.policy.by_loss else 0
        asked = [name for name in texts(record, PROBE) if name in self.addresses]
        pull(self.requests, packet.source, asked, sequence)
        timer = ConfigRecord({"walker": packet.walker, "choose": True})
        told = self.requests.content(packet.source, "query.choose", RecordDict({"timer": timer}))
        if told is None or (chosen := _whole(told, packet)) is None:
            return packet, content  # To whom it was sent before.
        return chosen, told

    def collect(self) -> tuple[Packet, RecordDict]:
        """Wait for the packet that is due first in virtual time, by detours if need be.

        The order is that of the virtual clock, so that a run does not depend on which thread or
        machine was quicker. The others go on meanwhile. Returns the full packet that its receiver
        hands on, with the message to send it on in; or the same one and the verdict, if it had only
        to judge it. Raises `WalkFailedError` if nobody who has held the packet answers.
        """
        walker = min(self._flights, key=lambda name: (self._flights[name].due_s, name))
        flight = self._flights[walker]
        reply = self.requests.wait(flight.message_id) if flight.message_id else None
        packet, content = self._landed(flight.packet, flight.content, reply)
        if VERDICT not in content:
            self._visit_s[packet.source] = self._grid.ready_s(packet.source) - flight.arrives_s
        del self._flights[walker]
        return packet, content

    def last_holders(self, packet: Packet) -> list[str]:
        """Return who may have a walker's last packet, the one who had it last first."""
        judged = [packet.destination] if self._plan.judges else []
        return judged + _holders(packet)

    def _landed(
        self, packet: Packet, content: RecordDict, reply: Message | None
    ) -> tuple[Packet, RecordDict]:
        """Return what the receiver made of a packet, or after detours another one."""
        arrived = self._handed_over(packet, content, reply)
        for _ in range(ROUNDS):
            if arrived is not None:
                receipt = arrived[1].pop(FOR_SENDER, None)
                if packet.hop > 1:
                    told = {"ack": ConfigRecord({"walker": packet.walker, "hop": packet.hop})}
                    signed = {FOR_SENDER: receipt} if isinstance(receipt, ConfigRecord) else {}
                    ack = RecordDict({**told, **signed})
                    self._ways.acknowledge(packet, ack)
                return arrived
            before = packet.hop
            packet, content = self._sent_again(packet, content)
            if packet.hop > before:
                # The receiver had done its part, only its word was lost: a holder that is asked
                # sends on the newest version it has.
                return packet, content
            arrived = self._handed_over(packet, content)
        reason = self.requests.last_reason()
        raise WalkFailedError(f"hop {packet.hop}: not delivered in {ROUNDS} rounds; {reason}")

    def _handed_over(
        self, packet: Packet, content: RecordDict, reply: Message | None = None
    ) -> tuple[Packet, RecordDict] | None:
        """Send a packet until its receiver has answered with a whole one, or seems gone.

        `reply` is the answer to the first try if that has been made. Later ones are sent whole:
        whatever the receiver holds, it can read them.
        """
        doubted = False
        for attempt in range(TRIES):
            if attempt or reply is None:
                link = self._ways.last_link(packet, content)
                if link is None:
                    continue
                reply = self.requests.ask(packet.destination, _kind(packet), *link)
            if reply is None:
                continue
            if reply.has_error():
                if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                    return None
            elif UNTAKEN in reply.content:
                told = reply.content.config_records[UNTAKEN]
                traits = () if doubted or packet.hop == 1 else self._plan.traits
                found = (trait.doubted(self, packet, told) for trait in traits)
                better = next((mended for mended in found if mended is not None), None)
                if better is None:
                    self.not_taken.setdefault(_name(packet), []).append(text(told, "reason"))
                    return None
                doubted, content = True, better
            elif VERDICT in reply.content:
                return packet, reply.content
            elif (arrived := _whole(reply.content, packet)) is not None:
                return arrived, reply.content
            # Else damaged on its way back: the receiver has it in custody and sends it again.
        return None

    def _sent_again(self, packet: Packet, content: RecordDict) -> tuple[Packet, RecordDict]:
        """Let the timers of those who held the packet go off until one answers."""
        if packet.hop == 1:
            # Nobody has held it yet: the one who made it picks the next node to begin at.
            order = self.addresses
            after = order[(order.index(packet.destination) + 1) % len(order)]
            moved = replace(packet, destination=after)
            return moved, RecordDict({PACKET: sealed(moved)})
        sender, *earlier = _holders(packet)
        # Of a walker's first version nobody else holds a copy.
        suspect = bool(earlier) and len(self.not_taken.get(_name(packet), ())) >= SUSPECT
        failed: dict[str, str | bool] = {"failed": packet.destination}
        lost: dict[str, str | bool] = {"lost": True, "failed": packet.source}
        if suspect:
            lost["spent"] = True
        timers = ({} if suspect else {sender: failed}) | dict.fromkeys(earlier, lost)
        for holder, timer in timers.items():
            for _ in range(TRIES):
                told = ConfigRecord({"walker": packet.walker, **timer})
                reply = self.requests.ask(holder, "query.again", RecordDict({"timer": told}))
                if reply is None:
                    continue
                if reply.has_error():
                    break
                if (kept := _whole(reply.content, packet)) is not None:
                    return kept, reply.content
        # Nobody answered in this round; the packet is still where it was.
        return packet, content


def _holders(packet: Packet) -> list[str]:
    """Return who had a packet, its sender first, then the ones before."""
    return list(dict.fromkeys([packet.source, *reversed(packet.visited)]))


def _kind(packet: Packet) -> str:
    """Return the type of the message that a packet travels in: with no hop left it is judged."""
    return "train.hop" if packet.ttl else "query.judge"


def _name(packet: Packet) -> tuple[str, int, str]:
    return packet.walker, packet.hop, packet.source


def _whole(content: RecordDict, before: Packet) -> Packet | None:
    """Return the packet in a reply if every bit of it is as its sender made it."""
    try:
        packet = restored(packet_in(content), before)
        packet.decoded()
    except PacketError:
        return None
    return packet
