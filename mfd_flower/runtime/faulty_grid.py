"""A Grid between the engine and the bill that loses, damages and delays what passes.

``MeteredGrid(FaultyGrid(LocalGrid(...), faults, seed, addresses), addresses=addresses)``. The kinds
of faults are in `mfd_flower.network.faults`. What the sender sees where no reply comes:

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
every id is answered therefore ends. A reply that was delayed past a `send_and_receive` is lost.

Damage reaches only receivers that check for themselves what they get, as those of AI packets do.
In what else Flower carries, its own digests give damage away, and the message does not arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from typing import NamedTuple

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.config import FaultsConfig
from mfd_flower.network.faults import Damage, Fault, drawn, generator
from mfd_flower.records import (
    joined,
    message_bytes,
    message_from,
    part_of,
    plain_record,
    plain_values,
)
from mfd_flower.runtime.damage import cut_off, flip_bit
from mfd_flower.runtime.pass_through import PassThrough

NOTHING = Fault("")


class Injected(NamedTuple):
    """One fault that took effect on one message."""

    kind: str
    """``down`` is what met a node that had died before."""
    address: str
    message_type: str
    occurrence: int
    """Number of the message among those of its type to this node, from 1."""


class _Flight(NamedTuple):
    """A message on its way, with what happens to it."""

    request: Message
    copies: list[Message]
    """What goes to the grid inside."""
    fault: Fault
    where: Injected
    number: int
    """Messages sent so far, with this one."""
    due: int
    """Messages sent by the time that a late reply comes in."""


class FaultyGrid(PassThrough, Grid):
    """Inject faults into what passes through another Grid.

    A message whose node is down after a death meets that, any other at most one fault. What it is
    depends on the messages that the node has been sent before, never on threads or on the order of
    replies. Nodes that are down stay in `get_node_ids`, as they do in Flower until they miss
    heartbeats. Damage is done to copies. `addresses` maps Flower's node ids; `self_checked` are the
    message types in which damage reaches its receiver, see above, all without it.
    """

    def __init__(
        self,
        grid: Grid,
        faults: FaultsConfig,
        seed: int,
        addresses: Mapping[int, str],
        self_checked: Collection[str] | None = None,
    ) -> None:
        self._grid = grid
        self._faults = faults
        self._seed = seed
        self._addresses = dict(addresses)
        self._self_checked = self_checked
        self._counts: Counter[tuple[str, str]] = Counter()
        self._down: dict[str, Fault] = {}
        self._sent = 0
        self._idle_pulls = 0
        self._log: list[tuple[int, Injected]] = []
        self._flights: dict[str, _Flight] = {}
        self._twins: dict[str, None] = {}
        # Replies by the id of the request, each handed out once.
        self._ready: dict[str, Message] = {}
        self._expired: dict[str, Message] = {}
        self._held: dict[str, tuple[int, Message]] = {}

    @property
    def log(self) -> list[Injected]:
        """Faults that took effect in this process, in the order in which messages were sent."""
        return [where for _, where in sorted(self._log, key=lambda entry: entry[0])]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send what is not lost; returns an id for every message."""
        flights = [self._planned(message) for message in messages]
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
        late = [i for i in asked if i in self._held]
        for message_id in late:
            if self._held[message_id][0] <= self._sent + self._idle_pulls:
                self._ready[message_id] = self._held.pop(message_id)[1]
        found = _take(asked, self._ready, self._expired)
        if not found and late and not any(i in self._flights for i in asked):
            self._idle_pulls += 1
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send what is not lost and return the replies in the order of sending."""
        flights = [self._planned(message) for message in messages]
        copies = [copy for flight in flights for copy in flight.copies]
        replies = list(self._grid.send_and_receive(copies, timeout=timeout)) if copies else []
        message_ids = self._launch(flights)
        for reply in replies:
            self._land(reply)
        if timeout is None:
            # Flower then waits until a late reply is there.
            late = [i for i in message_ids if i in self._held]
            self._ready |= {message_id: self._held.pop(message_id)[1] for message_id in late}
        found = _take(message_ids, self._ready)
        # Nobody asks for the others any more.
        for message_id in message_ids:
            for store in (self._flights, self._expired, self._held):
                store.pop(message_id, None)
        return found

    def state_dict(self) -> RecordDict:
        """Return who is down, what was counted, and what is under way or held back."""
        flights = {
            i: [asdict(f.fault), [*f.where], f.number, f.due] for i, f in self._flights.items()
        }
        counts = [[*key, count] for key, count in self._counts.items()]
        down = {address: asdict(fault) for address, fault in self._down.items()}
        held = {message_id: due for message_id, (due, _) in self._held.items()}
        plain = {"flights": flights, "counts": counts, "down": down, "held": held}
        numbers = {"sent": self._sent, "idle": self._idle_pulls, "twins": list(self._twins)}
        messages = {
            "requests": {i: flight.request for i, flight in self._flights.items()},
            "ready": self._ready,
            "expired": self._expired,
            "held": {message_id: reply for message_id, (_, reply) in self._held.items()},
        }
        records = {
            name: ConfigRecord({i: message_bytes(message) for i, message in each.items()})
            for name, each in messages.items()
        }
        own = RecordDict({**records, "faults": plain_record({**plain, **numbers})})
        return joined({"faults": own, "inner": self.inner_state()})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on from there."""
        self.load_inner_state(part_of(state, "inner"))
        own = part_of(state, "faults").config_records
        kept = plain_values(own["faults"])
        messages = {
            name: {i: message_from(data) for i, data in own[name].items()}  # type: ignore[arg-type]
            for name in ("requests", "ready", "expired", "held")
        }
        self._sent, self._idle_pulls = kept["sent"], kept["idle"]
        self._twins = dict.fromkeys(kept["twins"])
        self._counts = Counter({(a, kind): count for a, kind, count in kept["counts"]})
        self._down = {address: Fault(**fault) for address, fault in kept["down"].items()}
        self._ready, self._expired = messages["ready"], messages["expired"]
        self._held = {i: (due, messages["held"][i]) for i, due in kept["held"].items()}
        self._flights = {
            i: _Flight(messages["requests"][i], [], Fault(**fault), Injected(*where), number, due)
            for i, (fault, where, number, due) in kept["flights"].items()
        }

    def fault_of(self, request: Message, where: Injected) -> Fault | None:
        """Return what happens to a message, unless its node is down; None for nothing."""
        return drawn(self._faults, generator("rates", self._seed, *where[1:]))

    def _planned(self, request: Message) -> _Flight:
        """Count a message and decide what happens to it."""
        message_type, node_id = request.metadata.message_type, request.metadata.dst_node_id
        address = self._addresses.get(node_id, str(node_id))
        self._counts[address, message_type] += 1
        self._sent += 1
        where = Injected("", address, message_type, self._counts[address, message_type])
        fault = self._met(request, where)
        where = where._replace(kind=fault.kind)
        content = request.content
        if fault.request:
            content = self._damaged(content, fault.request, where) or content
        damaged = content is not request.content
        if fault.copies != 1 or fault.downtime or fault.reply in ("lost", "late") or damaged:
            self._log.append((self._sent, where))
        first = _with_content(request, content) if damaged else request
        copies = [first, _with_content(request, content)][: fault.copies]
        due = self._sent + self._idle_pulls + fault.late_by
        return _Flight(request, copies, fault, where, self._sent, due)

    def _met(self, request: Message, where: Injected) -> Fault:
        """Return the fault that a message meets, and note if its node is down from now on."""
        fault = self.fault_of(request, where) or NOTHING
        if self._self_checked is not None and where.message_type not in self._self_checked:
            fault = fault.noticed()
        if (down := self._down.pop(where.address, None)) is not None:
            fault, left = down, down.downtime - 1
        else:
            down = Fault("down", copies=0, reply="lost", silent=fault.silent)
            left = fault.downtime
        if left:
            self._down[where.address] = replace(down, downtime=left)
        return fault

    def _damaged(self, content: RecordDict, damage: Damage, where: Injected) -> RecordDict | None:
        rng = generator("damage", self._seed, *where)
        return flip_bit(content, rng) if damage == "flipped bit" else cut_off(content, rng)

    def _launch(self, flights: list[_Flight]) -> list[str]:
        """Note the ids under which the messages fly, once the grid inside has given them."""
        message_ids = []
        for flight in flights:
            ids = [copy.metadata.message_id for copy in flight.copies]
            message_ids.append(ids[0] if ids else f"undelivered-{flight.number}")
            # Every engine writes the id into the message that it was given.
            flight.request.metadata.__dict__["_message_id"] = message_ids[-1]
            self._twins.update(dict.fromkeys(ids[1:]))
            if ids:
                self._flights[ids[0]] = flight
            else:
                self._refuse(flight)
        return message_ids

    def _land(self, reply: Message) -> None:
        """Put a reply of the grid inside where its flight's fault wants it."""
        message_id = reply.metadata.reply_to_message_id
        self._twins.pop(message_id, None)
        if (flight := self._flights.pop(message_id, None)) is None:
            return
        if flight.fault.reply == "lost":
            self._refuse(flight)
        elif flight.fault.reply == "late":
            self._held[message_id] = flight.due, reply
        else:
            self._ready[message_id] = reply
            damage = flight.fault.reply if reply.has_content() else None
            if damage and (content := self._damaged(reply.content, damage, flight.where)):
                reply.content = content
                if not flight.fault.downtime:  # A death is in the log since it was sent.
                    self._log.append((flight.number, flight.where))

    def _refuse(self, flight: _Flight) -> None:
        """Answer a message for a node that does not."""
        code, reason, store = ErrorCode.NODE_UNAVAILABLE, "the node is not available", self._ready
        if flight.fault.silent:
            code, reason = ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "the reply did not come in time"
            store = self._expired
        reply = Message(Error(code, reason), reply_to=flight.request)
        store[reply.metadata.reply_to_message_id] = reply


def _take(message_ids: Iterable[str], *stores: dict[str, Message]) -> list[Message]:
    """Take the replies out of the stores, in the order of the ids."""
    return [store.pop(i) for i in message_ids for store in stores if i in store]


def _with_content(request: Message, content: RecordDict) -> Message:
    """Return a message of its own like `request`, with other content."""
    to = request.metadata
    return Message(content, to.dst_node_id, to.message_type, ttl=to.ttl, group_id=to.group_id)
