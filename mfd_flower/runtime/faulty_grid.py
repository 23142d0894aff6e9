"""A Grid between the engine and the bill that loses, damages and delays what passes.

``MeteredGrid(FaultyGrid(LocalGrid(...), faults, addresses), addresses=addresses)``. The kinds of
faults are in `mfd_flower.runtime.faults`. What the sender sees where no reply comes:

==================  ============================  ==================================================
                    `send_and_receive`            `push_messages`, `pull_messages`
==================  ============================  ==================================================
node unavailable    error NODE_UNAVAILABLE        error NODE_UNAVAILABLE
silence             one reply fewer               error REPLY_MESSAGE_UNAVAILABLE
delayed reply       one reply fewer with a        nothing until it is due
                    timeout, else the reply
==================  ============================  ==================================================

No wall time passes for a timeout. REPLY_MESSAGE_UNAVAILABLE is what Flower hands out when
a message's time to live is over, which is taken to be so at the first pull; a loop that pulls until
every id is answered therefore ends. A reply that was delayed past a `send_and_receive` is handed
out only by a pull for that message's id, ``message.metadata.message_id``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from mfd_flower.checks import ConfigError
from mfd_flower.runtime.faults import DEATHS, Fault, FaultRates, cut_off, flip_bit, generator
from mfd_flower.runtime.metered_grid import SOURCE
from mfd_flower.runtime.roll_call import ROLL_CALL

DOWN = "down"
"""Kind under which a message is logged that found its node down after a death."""
ALWAYS_SILENT = ("request-lost", "reply-lost")
DAMAGED_REPLY = ("reply-cut-off", "reply-corrupted", "dies-sending")
NEVER_CALLED = (*DEATHS[:2], "asleep", "partition", "request-lost")


class Injected(NamedTuple):
    """One fault that took effect on one message."""

    kind: str
    address: str
    message_type: str
    occurrence: int
    """Number of the message among those of its type to this node, from 1."""


@dataclass
class _Outage:
    left: int | None
    silent: bool


@dataclass
class _Flight:
    """A message on its way, with what is to happen to it."""

    request: Message
    copies: list[Message]
    """What goes to the grid inside: nothing, one message, or two."""
    sent: int = 0
    """Messages sent under faults, with this one."""
    where: Injected | None = None
    fault: Fault | None = None
    silent: bool = False
    due: int = 0
    message_id: str = ""


class FaultyGrid(Grid):
    """Inject faults into what passes through another Grid.

    Each message meets at most one fault: that its node is down, else the first of `faults` that
    strikes. What strikes depends on the messages that the node has been sent before, never
    on threads or on the order of replies. Nodes that are down stay in `get_node_ids`, as they do in
    Flower until they miss heartbeats. Damage is done to copies.

    Parameters
    ----------
    grid : Grid
        Carries the messages.
    faults : iterable of Fault or FaultRates
        Asked in this order.
    addresses : mapping of int to str
        Flower's node id to address.
    message_types : collection of str, optional
        Types that faults apply to and that are counted; without it all but the roll call.

    Raises
    ------
    ConfigError
        If a fault names an address or a message type that is not there.
    """

    def __init__(
        self,
        grid: Grid,
        faults: Iterable[Fault | FaultRates],
        addresses: Mapping[int, str],
        message_types: Collection[str] | None = None,
    ) -> None:
        self._grid = grid
        self._faults = tuple(faults)
        self._addresses = dict(addresses)
        self._types = message_types
        known = set(self._addresses.values())
        for fault in self._faults:
            for address in fault.nodes - known:
                accepted = f"accepted: {', '.join(self._addresses.values())}"
                raise ConfigError("faults.address", address, accepted)
            if fault.message_type is not None and not self._applies_to(fault.message_type):
                raise ConfigError("faults.message_type", fault.message_type, "not under faults")
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._outages: dict[str, _Outage] = {}
        self._sent = 0
        self._idle_pulls = 0
        self._log: dict[int, Injected] = {}
        self._flights: dict[str, _Flight] = {}
        self._twins: dict[str, None] = {}
        # Replies by the id of the request, each handed out once.
        self._ready: dict[str, Message] = {}
        self._expired: dict[str, Message] = {}
        self._held: dict[str, Message] = {}
        self._due: dict[str, int] = {}

    @property
    def log(self) -> list[Injected]:
        """Faults that took effect, in the order in which their messages were sent."""
        return [self._log[place] for place in sorted(self._log)]

    @property
    def injected(self) -> Counter[str]:
        """Number of faults that took effect by kind; ``down`` is what met a dead node."""
        return Counter(entry.kind for entry in self._log.values())

    @property
    def run(self) -> Run:
        """Run information."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the run of the grid inside."""
        self._grid.set_run(run)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes, also of those that are down."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the grid inside knows of its nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send what is not lost; returns an id for every message."""
        flights = [self._plan(message) for message in messages]
        if copies := [copy for flight in flights for copy in flight.copies]:
            self._grid.push_messages(copies)
        return self._launch(flights)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, in the order of `message_ids`.

        A pull that finds nothing because all that is still to come is delayed counts as one
        message towards the delay, so that waiting alone brings the reply in.
        """
        asked = list(message_ids)
        if wanted := [*(i for i in asked if i in self._flights), *self._twins]:
            for reply in self._grid.pull_messages(wanted):
                self._land(reply)
        now = self._sent + self._idle_pulls
        for message_id in asked:
            if message_id in self._held and self._due[message_id] <= now:
                self._ready[message_id] = self._held.pop(message_id)
        found = _take(asked, self._ready, self._expired)
        if not found and not any(i in self._flights for i in asked):
            self._idle_pulls += any(i in self._held for i in asked)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send what is not lost and return the replies in the order of sending."""
        flights = [self._plan(message) for message in messages]
        copies = [copy for flight in flights for copy in flight.copies]
        replies = list(self._grid.send_and_receive(copies, timeout=timeout)) if copies else []
        message_ids = self._launch(flights)
        for reply in replies:
            self._land(reply)
        # Without a timeout Flower waits until a late reply is there.
        return _take(message_ids, self._ready, *([self._held] if timeout is None else []))

    def _applies_to(self, message_type: str) -> bool:
        return message_type != ROLL_CALL if self._types is None else message_type in self._types

    def _plan(self, request: Message) -> _Flight:
        """Count a message and decide what is to happen to it."""
        message_type = request.metadata.message_type
        if not self._applies_to(message_type):
            return _Flight(request, [request])
        node_id = request.metadata.dst_node_id
        address = self._addresses.get(node_id, str(node_id))
        counts = self._counts[address]
        counts[message_type] += 1
        self._sent += 1
        flight = _Flight(request, [request], self._sent)
        if (outage := self._outages.get(address)) is not None:
            if outage.left is not None:
                outage.left -= 1
            if outage.left == 0:
                del self._outages[address]
            flight.copies, flight.silent = [], outage.silent
            self._log[flight.sent] = Injected(DOWN, address, message_type, counts[message_type])
            return flight
        strikes = (f.strikes(address, message_type, counts, _source(request)) for f in self._faults)
        if (fault := next((strike for strike in strikes if strike), None)) is not None:
            flight.fault = fault
            flight.where = Injected(fault.kind, address, message_type, counts[message_type])
            self._strike(flight, fault, flight.where)
        return flight

    def _strike(self, flight: _Flight, fault: Fault, where: Injected) -> None:
        """Put a fault into effect as far as it concerns the node and the request."""
        request = flight.request
        flight.silent = fault.silent or fault.kind in ALWAYS_SILENT
        if fault.kind in DEATHS and fault.downtime != 0:
            self._outages[where.address] = _Outage(fault.downtime, fault.silent)
        wiped = fault.kind == "dies-after-training" and not fault.state_survives
        if wiped or fault.kind in NEVER_CALLED:
            flight.copies = []
        elif fault.kind == "request-duplicated":
            flight.copies = [request, _with_content(request, request.content)]
        elif fault.kind in ("request-cut-off", "request-corrupted"):
            if (content := _damaged(request.content, fault, where)) is None:
                return
            flight.copies = [_with_content(request, content)]
        elif fault.kind == "reply-delayed":
            flight.due = self._sent + self._idle_pulls + fault.delay
        elif fault.kind in ("reply-cut-off", "reply-corrupted"):
            # Not in effect before there is a reply with arrays.
            return
        self._log[flight.sent] = where

    def _launch(self, flights: list[_Flight]) -> list[str]:
        """Note the ids under which the messages fly, once the grid inside has given them."""
        for flight in flights:
            ids = [copy.metadata.message_id for copy in flight.copies]
            flight.message_id = ids[0] if ids else f"undelivered-{flight.sent}"
            # Every engine writes the id into the message that it was given.
            flight.request.metadata.__dict__["_message_id"] = flight.message_id
            self._twins.update(dict.fromkeys(ids[1:]))
            if ids:
                self._flights[flight.message_id] = flight
            else:
                self._refuse(flight)
        return [flight.message_id for flight in flights]

    def _land(self, reply: Message) -> None:
        """Put a reply of the grid inside where its flight's fault wants it."""
        message_id = reply.metadata.reply_to_message_id
        self._twins.pop(message_id, None)
        if (flight := self._flights.pop(message_id, None)) is None:
            return
        fault, where = flight.fault, flight.where
        if fault is None or where is None:
            self._ready[message_id] = reply
        elif fault.kind in ("reply-lost", "dies-after-training"):
            self._refuse(flight)
        elif fault.kind == "reply-delayed":
            self._held[message_id] = reply
            self._due[message_id] = flight.due
        else:
            if fault.kind in DAMAGED_REPLY and reply.has_content():
                content = _damaged(reply.content, fault, where)
                if content is not None:
                    reply.content = content
                    self._log[flight.sent] = where
            self._ready[message_id] = reply

    def _refuse(self, flight: _Flight) -> None:
        """Answer a message for a node that does not."""
        if flight.silent:
            error = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "the reply did not come in time")
            self._expired[flight.message_id] = Message(error, reply_to=flight.request)
        else:
            error = Error(ErrorCode.NODE_UNAVAILABLE, "the node is not available")
            self._ready[flight.message_id] = Message(error, reply_to=flight.request)


def _take(message_ids: Iterable[str], *stores: dict[str, Message]) -> list[Message]:
    """Take the replies out of the stores, in the order of the ids."""
    return [store.pop(i) for i in message_ids for store in stores if i in store]


def _with_content(request: Message, content: RecordDict) -> Message:
    """Return a message of its own like `request`, with other content."""
    to = request.metadata
    return Message(content, to.dst_node_id, to.message_type, ttl=to.ttl, group_id=to.group_id)


def _damaged(content: RecordDict, fault: Fault, where: Injected) -> RecordDict | None:
    """Return a damaged copy; None if there is no array to damage."""
    rng = generator("damage", fault.seed, *where)
    return flip_bit(content, rng) if fault.kind.endswith("corrupted") else cut_off(content, rng)


def _source(request: Message) -> str | None:
    """Return the address that a transfer between nodes comes from; None is the server."""
    records = request.content.config_records.values()
    return next((str(record[SOURCE]) for record in records if SOURCE in record), None)
