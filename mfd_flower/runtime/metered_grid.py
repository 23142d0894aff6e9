"""A Grid that bills every byte, second and joule of the Grid inside it.

Flower is a star: whatever two nodes say to each other passes the server. A strategy therefore says
in `links` which message types stand for which link, and each logical transfer is billed once:

- ``star`` (every type that is not named): request `down`, reply `up`;
- ``d2d``, ``up``, ``backhaul``: the request is a transfer between nodes on that link, and the reply
  is the holder's word to the network, which the next request carries on;
- ``relay``: exists only because Flower is a star; no transfer of the algorithm.

`relay` counts all that the star carried, both ways. What nodes say to each other beside the
star, as members of a split model do, they report: ``d2d``, ``up`` and ``down`` bytes of their
links, and the virtual ``seconds`` that they were busy together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.accounting.wire import Size, measure
from mfd_flower.config import NetworkConfig
from mfd_flower.network.delivery import Sent
from mfd_flower.network.world import EDGE, Link, Transfer, World
from mfd_flower.records import (
    REPORT,
    joined,
    message_bytes,
    message_from,
    part_of,
    plain_record,
    plain_values,
    stamped,
    taken,
)
from mfd_flower.results import reason_of
from mfd_flower.runtime.bill import Bill, Billed
from mfd_flower.runtime.pass_through import PassThrough

SOURCE = "source"
"""Config key by which a transfer between nodes names the address that it comes from."""
LISTS = ("visits", "sources", "failures", "failed")
"""What only grows; a checkpoint adds to it."""
RAISED = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""What tells that a node's code failed, not the network."""


class _Asked(NamedTuple):
    """A request that has no reply yet."""

    address: str
    link: str
    arrived_s: float
    """When its node begins with it; infinite if it does not get there."""
    source: str
    known_s: float
    """When its sender knows that it arrived, or is lost."""
    until_s: float
    """Until when its reply is waited for."""


class MeteredGrid(Bill, PassThrough, Grid):
    """Bill what passes through another Grid, see `Bill` for what it counts.

    `links` maps message types, see the module's text. `world` turns bytes and FLOPs into virtual
    seconds and joules, the default ``[network]`` without it; a node out of its reach is answered
    for by an error, as Flower does. `addresses` maps Flower's node ids: these are handed out in its
    order, and replies put into the order of sending, so that a run does not depend on arrival.

    Attributes
    ----------
    visits, sources
        Address of every node that trained, in order, and where the request for that came from;
        empty for the server. Requests that got no answer, or an old one, are none.
    failures, failed
        Reason of every error reply and missing reply, and the address that it concerns.
    raised
        Address and last line of the first error that a node's own code raised; else empty.
    """

    def __init__(
        self,
        grid: Grid,
        links: Mapping[str, str] | None = None,
        world: World | None = None,
        addresses: Mapping[int, str] | None = None,
    ) -> None:
        self._addresses = dict(addresses or {})
        super().__init__(world or World(NetworkConfig(), len(self._addresses)))
        self._grid = grid
        self._links = dict(links or {})
        self._ids = {address: node_id for node_id, address in self._addresses.items()}
        self._asked: dict[str, _Asked] = {}
        self._lost: dict[str, Message] = {}
        self._unsent = 0
        self.visits: list[str] = []
        self.sources: list[str] = []
        self.failures: list[str] = []
        self.failed: list[str] = []
        self.raised = ""

    def state_dict(self) -> RecordDict:
        """Return all counters and clocks, without the long `LISTS`."""
        asked = {message_id: [*each] for message_id, each in self._asked.items()}
        kept = {**self.plain_state(), "asked": asked, "unsent": self._unsent}
        lost = ConfigRecord({i: message_bytes(reply) for i, reply in self._lost.items()})
        bill = RecordDict({"bill": plain_record(kept), "lost": lost})
        return joined({"meter": bill, "inner": self.inner_state()})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on counting from there."""
        self.load_inner_state(part_of(state, "inner"))
        records = part_of(state, "meter").config_records
        kept = plain_values(records["bill"])
        self.load_plain_state(kept)
        self._asked = {i: _Asked(*each) for i, each in kept["asked"].items()}
        self._unsent = kept["unsent"]
        self._lost = {i: message_from(cast(bytes, data)) for i, data in records["lost"].items()}

    def arrival_s(self, message_id: str) -> float:
        """Return when a message that has no reply yet arrives, or is known not to."""
        asked = self._asked[message_id]
        return asked.arrived_s if _arrives(asked) else asked.known_s

    def address(self, node_id: int) -> str:
        """Return the address of a Flower node."""
        return self._addresses.get(node_id, str(node_id))

    def node_id(self, address: str) -> int:
        """Return Flower's node id of an address."""
        return self._ids[address]

    @property
    def nodes(self) -> list[str]:
        """Addresses of the nodes that take part now."""
        return [self.address(node_id) for node_id in self.get_node_ids()]

    def ask(
        self, kind: str, contents: Mapping[str, RecordDict], timeout: float
    ) -> dict[str, RecordDict]:
        """Send nodes messages of a kind, and return what came back of each, by address.

        An error reply is no answer. Answers are waited for `timeout` seconds.
        """
        requests = {a: Message(content, self._ids[a], kind) for a, content in contents.items()}
        replies = list(self.send_and_receive(requests.values(), timeout=timeout))
        asked = {request.metadata.message_id: a for a, request in requests.items()}
        answers = [reply for reply in replies if reply.has_content()]
        return {asked[reply.metadata.reply_to_message_id]: reply.content for reply in answers}

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that take part now, in order of their addresses if known."""
        connected = list(self._grid.get_node_ids())
        if not self._addresses:
            return connected
        present, at_s = set(connected), self._clock.free_s(EDGE)
        return [
            node_id
            for node_id, address in self._addresses.items()
            if node_id in present and self._world.available(address, at_s)
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Bill the requests, and send those that arrive."""
        requests = list(messages)
        asked = self._bill_requests(requests, math.inf)
        if sent := _reaching(requests, asked):
            self._grid.push_messages(sent)
        self._remember(requests, asked)
        return [request.metadata.message_id for request in requests]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Collect replies and bill them."""
        ids = list(message_ids)
        lost = [self._lost.pop(message_id) for message_id in ids if message_id in self._lost]
        return self._bill_replies([*lost, *self._grid.pull_messages(ids)])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Bill requests and replies; the replies come in the order of sending.

        `timeout` limits virtual time, in which what comes later is lost, and wall time.
        """
        requests = list(messages)
        asked = self._bill_requests(requests, math.inf if timeout is None else timeout)
        sent = _reaching(requests, asked)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout)) if sent else []
        self._remember(requests, asked)
        places = {request.metadata.message_id: place for place, request in enumerate(requests)}
        replies += [self._lost.pop(message_id) for message_id in places if message_id in self._lost]
        replies.sort(key=lambda r: places.get(r.metadata.reply_to_message_id, len(places)))
        found = self._bill_replies(replies)
        for message_id in places:  # For those without a reply none will be asked.
            if (unanswered := self._asked.pop(message_id, None)) is not None:
                self._note_failure(unanswered.address, "no reply in time")
        return found

    def _remember(self, requests: list[Message], asked: list[_Asked]) -> None:
        # The grid inside gives a message its id when it sends it. A reply is matched by that id:
        # one that never comes must not shift the others, and the reply that a SuperLink makes for
        # a node which is gone does not name that node.
        for request, each in zip(requests, asked, strict=True):
            if not _arrives(each):
                self._unsent += 1
                request.metadata.__dict__["_message_id"] = f"unsent-{self._unsent}"
                error = Error(ErrorCode.NODE_UNAVAILABLE, "the node is out of reach")
                self._lost[request.metadata.message_id] = Message(error, reply_to=request)
            self._asked[request.metadata.message_id] = each

    def _bill_requests(self, requests: list[Message], timeout_s: float) -> list[_Asked]:
        billed, links = [], []
        # A strategy often sends one and the same content to all nodes: measured once.
        sizes: dict[int, Size] = {}
        for message in requests:
            content, message_type = message.content, message.metadata.message_type
            if id(content) not in sizes:
                sizes[id(content)] = measure(content)
            address = self.address(message.metadata.dst_node_id)
            links.append(link := self._links.get(message_type, "star"))
            source = EDGE if link == "star" else self._source(content)
            transfer = Transfer(source, address, cast(Link, "down" if link == "star" else link))
            starts_s = self._clock.free_s(source)
            until_s = starts_s + timeout_s
            billed.append(Billed(transfer, sizes[id(content)], message_type, starts_s, until_s))
        return [
            self._on_its_way(link, each, sent)
            for link, each, sent in zip(links, billed, self.bill_transfers(billed), strict=True)
        ]

    def _on_its_way(self, link: str, billed: Billed, sent: Sent) -> _Asked:
        source, address, _ = billed.transfer
        begins_s = max(sent.arrives_s, self._clock.free_s(address))
        named = source if source != EDGE else ""
        return _Asked(address, link, begins_s, named, sent.known_s, billed.until_s)

    def _bill_replies(self, replies: list[Message]) -> list[Message]:
        """Bill what nodes did and sent; returns the replies that arrive in time."""
        uploads: dict[int, Billed] = {}
        for place, reply in enumerate(replies):
            if (upload := self._bill_reply(reply)) is not None:
                uploads[place] = upload
        sent = dict(zip(uploads, self.bill_transfers([*uploads.values()]), strict=True))
        found = []
        for place, reply in enumerate(replies):
            if place in sent:
                self._clock.occupy(EDGE, sent[place].known_s)
            if place not in sent or not math.isinf(sent[place].arrives_s):
                found.append(reply)
            else:
                self._note_failure(uploads[place].transfer.source, "no reply in time")
        return found

    def _bill_reply(self, reply: Message) -> Billed | None:
        """Bill what a node did; returns what it sends up."""
        asked, message_type = reply.metadata.reply_to_message_id, reply.metadata.message_type
        address = self.address(reply.metadata.src_node_id)
        known = self._asked.pop(asked, _Asked(address, "star", 0.0, "", 0.0, math.inf))
        address, link, done_s = known.address, known.link, known.arrived_s
        if reply.has_error():
            self._note_failure(address, str(reply.error.reason).strip())
            if reply.error.code in RAISED and not self.raised:
                self.raised = f"{address}: {reason_of(reply.error.reason)}"
            # The sender knows of the failure one latency after the request would have arrived.
            done_s = done_s if _arrives(known) else known.known_s
            self._clock.occupy(EDGE, done_s + self._world.latency_s(address, EDGE, done_s))
            return None
        if (report := taken(reply.content, REPORT)) is not None:
            if message_type.partition(".")[0] == "train":
                self.visits.append(address)
                self.sources.append(known.source)
            done_s += self.bill_work(address, report, message_type, done_s)
        self._clock.occupy(address, done_s)
        size = measure(reply.content)
        if link == "star":
            up = Transfer(address, EDGE, "up")
            return Billed(up, size, message_type, done_s, max(known.until_s, done_s))
        self._bytes["relay"] += size.wire
        return None

    def _note_failure(self, address: str, reason: str) -> None:
        self.failures.append(reason)
        self.failed.append(address)

    def _source(self, content: RecordDict) -> str:
        """Return the node that a transfer comes from; the edge server if none is named."""
        records = content.config_records.values()
        source = next((str(record[SOURCE]) for record in records if SOURCE in record), EDGE)
        return source if source in self._ids else EDGE


def _arrives(asked: _Asked) -> bool:
    return not math.isinf(asked.arrived_s)


def _reaching(requests: list[Message], asked: list[_Asked]) -> list[Message]:
    """Return the requests that get to their nodes, each with when it does."""
    pairs = zip(requests, asked, strict=True)
    return [stamped(request, each.arrived_s) for request, each in pairs if _arrives(each)]
