"""A Grid that bills every byte, second and joule of the Grid inside it.

Flower is a star: whatever two nodes say to each other passes the server. A strategy therefore says
in `links` which message types stand for which link, and each logical transfer is billed once:

- ``star`` (every type that is not named): request `down`, reply `up`;
- ``d2d``, ``up``, ``backhaul``: the request is a transfer between nodes on that link, and the reply
  is the holder's word to the network, which the next request carries on;
- ``relay``: exists only because Flower is a star; no transfer of the algorithm.

`relay` counts all that the star carried, both ways. What nodes say to each other beside the
star, as members of a split model do, they report: bytes ``sent`` to and ``received`` from each of
their ``peers``, see `mfd_flower.runtime.member_links`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, cast

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.accounting.wire import Size, measure
from mfd_flower.config import NetworkConfig
from mfd_flower.network.clock import START, Moment
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
from mfd_flower.runtime.member_links import MemberLinks, Reported
from mfd_flower.runtime.pass_through import PassThrough

SOURCE = "source"
"""Config key by which a transfer between nodes names the address that it comes from, unless its
message's group does."""
LISTS = ("visits", "sources", "sent_s", "begun_s", "failures", "failed")
"""What only grows; a checkpoint adds to it."""
POLL_S = 0.002
RAISED = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""What tells that a node's code failed, not the network."""


class Asked(NamedTuple):
    """A request that has no reply yet."""

    address: str
    link: str
    arrived: Moment
    """When its node begins with it; infinite if it does not get there."""
    source: str
    sent_s: float
    known: Moment
    """When its sender knows that it arrived, or is lost."""
    until_s: float
    """Until when its reply is waited for."""

    @classmethod
    def of(cls, kept: Sequence[Any]) -> Self:
        """Return what a checkpoint kept."""
        address, link, arrived, source, sent_s, known, until_s = kept
        return cls(address, link, Moment.of(arrived), source, sent_s, Moment.of(known), until_s)

    def kept(self) -> list[Any]:
        """Return it for a checkpoint."""
        address, link, arrived, source, sent_s, known, until_s = self
        return [address, link, arrived.numbers, source, sent_s, known.numbers, until_s]

    @property
    def arrives(self) -> bool:
        """Whether it gets there."""
        return not math.isinf(self.arrived.at_s)


class Back(NamedTuple):
    """A reply, and what is to be billed for it."""

    reply: Message
    asked: Asked
    report: ConfigRecord | None
    """What its node did."""
    done: Moment
    """When that was done, or the sender of the request knows that nothing was."""
    upload: Billed | None
    """What its node sends up."""
    links: MemberLinks
    """Those of all whose replies came with it."""
    lost: str = ""
    """Why it counts as lost, if it does."""


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
    sent_s, begun_s
        When those requests were sent, and when their nodes began with them, in virtual seconds.
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
        self._asked: dict[str, Asked] = {}
        self._lost: dict[str, Message] = {}
        self._back: dict[str, Back] = {}
        self._unsent = 0
        self.visits: list[str] = []
        self.sources: list[str] = []
        self.sent_s: list[float] = []
        self.begun_s: list[float] = []
        self.failures: list[str] = []
        self.failed: list[str] = []
        self.raised = ""

    def state_dict(self) -> RecordDict:
        """Return all counters and clocks, without the long `LISTS`."""
        asked = {message_id: each.kept() for message_id, each in self._asked.items()}
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
        self._asked = {i: Asked.of(each) for i, each in kept["asked"].items()}
        self._unsent = kept["unsent"]
        self._lost = {i: message_from(cast(bytes, data)) for i, data in records["lost"].items()}

    def arrival_s(self, message_id: str) -> float:
        """Return when a message that has no reply yet arrives, or is known not to."""
        asked = self._asked[message_id]
        return (asked.arrived if asked.arrives else asked.known).at_s

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

    def pull_first(
        self, message_ids: Collection[str], timeout: float
    ) -> tuple[str, Message | None] | None:
        """Wait for the reply that arrives first in virtual time, and bill it.

        Returns the id of its request, and None in its place if it was lost on its way; None if no
        reply at all comes. The others stay until they are asked for again. All have to be there
        before it is known which one is first: `timeout` limits the wall time of that.
        """
        ends_s = time.monotonic() + timeout
        while missing := [i for i in message_ids if i not in self._back]:
            lost = [self._lost.pop(i) for i in missing if i in self._lost]
            found = [*lost, *self._grid.pull_messages(missing)]
            for back in self._came_back(found):
                self._back[back.reply.metadata.reply_to_message_id] = back
            if not found:
                if time.monotonic() > ends_s:
                    break
                time.sleep(POLL_S)
        there = [i for i in message_ids if i in self._back]
        uploads = {i: up for i in there if (up := self._back[i].upload) is not None}
        sent = dict(zip(uploads, self.delivered([*uploads.values()]), strict=True))
        known_s = {i: sent[i].known_s if i in sent else self._back[i].done.at_s for i in there}
        if not known_s:
            return None
        first = min(known_s, key=lambda message_id: known_s[message_id])
        back = self._back.pop(first)
        self._bill_back(back)
        self._know(back.done.later(known_s[first], "up"))
        if back.upload is None:
            return first, None if back.lost else back.reply
        self.bill_sent(back.upload, sent[first])
        if not math.isinf(sent[first].arrives_s):
            return first, back.reply
        self._note_failure(back.asked.address, "no reply in time")
        return first, None

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        deadline_s: float = math.inf,
        first: int = 0,
    ) -> Iterable[Message]:
        """Bill requests and replies; the replies come in the order of sending.

        `timeout` limits wall time. `deadline_s` limits virtual time: what comes later is lost. With
        `first` no more replies than so many are waited for, and what was not begun to be sent by
        then is not sent.
        """
        requests = list(messages)
        asked = self._bill_requests(requests, deadline_s)
        sent = _reaching(requests, asked)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout)) if sent else []
        self._remember(requests, asked)
        places = {request.metadata.message_id: place for place, request in enumerate(requests)}
        replies += [self._lost.pop(message_id) for message_id in places if message_id in self._lost]
        replies.sort(key=lambda r: places.get(r.metadata.reply_to_message_id, len(places)))
        found = self._bill_replies(replies, first)
        for message_id in places:  # For those without a reply none will be asked.
            if (unanswered := self._asked.pop(message_id, None)) is not None:
                self._give_up(unanswered)
        return found

    def _give_up(self, asked: Asked) -> None:
        """Let the sender of a request without a reply wait for it as long as it does."""
        self._note_failure(asked.address, "no reply in time")
        over = self._timed_out(asked)
        self._know(over)
        if asked.source:
            self._clock.occupy(asked.source, over)

    def _timed_out(self, asked: Asked) -> Moment:
        since = asked.arrived if asked.arrives else asked.known
        return since.later(since.at_s + self._world.timeout_s, "waiting")

    def _remember(self, requests: list[Message], asked: list[Asked]) -> None:
        # The grid inside gives a message its id when it sends it. A reply is matched by that id:
        # one that never comes must not shift the others, and the reply that a SuperLink makes for
        # a node which is gone does not name that node.
        for request, each in zip(requests, asked, strict=True):
            if not each.arrives:
                self._unsent += 1
                request.metadata.__dict__["_message_id"] = f"unsent-{self._unsent}"
                error = Error(ErrorCode.NODE_UNAVAILABLE, "the node is out of reach")
                self._lost[request.metadata.message_id] = Message(error, reply_to=request)
            self._asked[request.metadata.message_id] = each

    def _bill_requests(self, requests: list[Message], deadline_s: float) -> list[Asked]:
        billed, links = [], []
        # A strategy often sends one and the same content to all nodes: measured once.
        sizes: dict[int, Size] = {}
        for message in requests:
            content, message_type = message.content, message.metadata.message_type
            if id(content) not in sizes:
                sizes[id(content)] = measure(content)
            address = self.address(message.metadata.dst_node_id)
            links.append(link := self._links.get(message_type, "star"))
            source = EDGE if link == "star" else self._source(message)
            transfer = Transfer(source, address, cast(Link, "down" if link == "star" else link))
            starts_s = self._clock.free_s(source)
            until_s = starts_s + deadline_s
            billed.append(Billed(transfer, sizes[id(content)], message_type, starts_s, until_s))
        return [
            self._on_its_way(link, each, sent)
            for link, each, sent in zip(links, billed, self.bill_transfers(billed), strict=True)
        ]

    def _on_its_way(self, link: str, billed: Billed, sent: Sent) -> Asked:
        source, address, sent_over = billed.transfer
        began, node = self._clock.free(source), self._clock.free(address)
        arrived = began.later(sent.arrives_s, sent_over)
        known = began.later(sent.known_s, "waiting" if math.isinf(sent.arrives_s) else sent_over)
        named = source if source != EDGE else ""
        begins = node if node.at_s > arrived.at_s else arrived
        return Asked(address, link, begins, named, began.at_s, known, billed.until_s)

    def _bill_replies(self, replies: list[Message], first: int = 0) -> list[Message]:
        """Bill what nodes did and sent; returns the replies that arrive in time."""
        backs = self._came_back(replies)
        for back in backs:
            self._bill_back(back)
            if back.reply.has_error() or back.lost:
                self._know(back.done)
        uploads = {place: up for place, back in enumerate(backs) if (up := back.upload) is not None}
        if first:
            uploads = self._of_first(uploads, first)
        sent = dict(zip(uploads, self.bill_transfers([*uploads.values()]), strict=True))
        found = []
        for place, back in enumerate(backs):
            if place in sent:
                self._know(back.done.later(sent[place].known_s, "up"))
            if back.lost:
                continue
            if back.upload is None or (place in sent and not math.isinf(sent[place].arrives_s)):
                found.append(back.reply)
            else:
                self._note_failure(back.asked.address, "no reply in time")
        return found

    def _of_first(self, uploads: Mapping[int, Billed], first: int) -> dict[int, Billed]:
        """Return what is sent until so many have arrived, and is given up then."""
        arrivals = sorted(sent.arrives_s for sent in self.delivered([*uploads.values()]))
        end_s = arrivals[min(first, len(arrivals)) - 1] if arrivals else math.inf
        return {
            place: upload._replace(until_s=min(upload.until_s, end_s))
            for place, upload in uploads.items()
            if upload.begins_s < end_s
        }

    def _came_back(self, replies: Sequence[Message]) -> list[Back]:
        """Return what replies that came together are to be billed for."""
        asked, reports = [], []
        for reply in replies:
            address = self.address(reply.metadata.src_node_id)
            unknown = Asked(address, "star", START, "", 0.0, START, math.inf)
            asked.append(self._asked.pop(reply.metadata.reply_to_message_id, unknown))
            reports.append(None if reply.has_error() else taken(reply.content, REPORT))
        worked = zip(asked, reports, strict=True)
        links = MemberLinks(
            self._world, [Reported(a.address, r, a.arrived.at_s) for a, r in worked if r]
        )
        each = zip(replies, asked, reports, strict=True)
        return [self._back_of(reply, a, report, links) for reply, a, report in each]

    def _back_of(
        self, reply: Message, asked: Asked, report: ConfigRecord | None, links: MemberLinks
    ) -> Back:
        if reply.has_error():
            return Back(reply, asked, None, self._told(reply, asked), None, links)
        done, lost = asked.arrived, ""
        if report:
            done = self._worked(asked.address, report, done, links)
            if peer := links.broken(asked.address, report):
                lost = f"its link to {peer} broke"
        if asked.link != "star" or lost:
            return Back(reply, asked, report, done, None, links, lost)
        up, until_s = Transfer(asked.address, EDGE, "up"), max(asked.until_s, done.at_s)
        size, message_type = measure(reply.content), reply.metadata.message_type
        upload = Billed(up, size, message_type, done.at_s, until_s)
        return Back(reply, asked, report, done, upload, links)

    def _told(self, reply: Message, asked: Asked) -> Moment:
        """Return when the sender of a request knows of the error that answers it."""
        if not asked.arrives:
            return asked.known
        if reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE:
            return self._timed_out(asked)
        sender = asked.source or EDGE
        back_s = self._world.latency_s(asked.address, sender, asked.arrived.at_s)
        return asked.arrived.later(asked.arrived.at_s + back_s, "waiting")

    def _worked(
        self, address: str, report: ConfigRecord, since: Moment, links: MemberLinks
    ) -> Moment:
        """Return when a node is done with what it reports and began then."""
        if sensing_s := self.sensing_s(address, report):
            since = since.later(since.at_s + sensing_s, "sensing")
        work_s = self.work_s(address, report, since.at_s)
        beside_s = links.beside_s(address, report, work_s, since.at_s)
        done = since.later(since.at_s + work_s, "compute")
        return done.later(done.at_s + beside_s, "d2d") if beside_s else done

    def _bill_back(self, back: Back) -> None:
        """Bill what a node did, or note why it did nothing."""
        reply, asked, report, done, upload, links, lost = back
        message_type = reply.metadata.message_type
        if reply.has_error():
            self._note_failure(asked.address, str(reply.error.reason).strip())
            if reply.error.code in RAISED and not self.raised:
                self.raised = f"{asked.address}: {reason_of(reply.error.reason)}"
            if asked.source:
                self._clock.occupy(asked.source, done)
            return
        if lost:
            self._note_failure(asked.address, lost)
        if report is not None:
            if message_type.partition(".")[0] == "train":
                self.visits.append(asked.address)
                self.sources.append(asked.source)
                self.sent_s.append(asked.sent_s)
                self.begun_s.append(asked.arrived.at_s)
            self.bill_work(asked.address, report, message_type, asked.arrived.at_s, links)
        self._clock.occupy(asked.address, done)
        if upload is None:
            self._bytes["relay"] += measure(reply.content).wire
            if done.at_s > self._known.at_s:
                self._known = done

    def _note_failure(self, address: str, reason: str) -> None:
        self.failures.append(reason)
        self.failed.append(address)

    def _source(self, message: Message) -> str:
        """Return the node that a transfer comes from; the edge server if none is named."""
        records = message.content.config_records.values()
        named = (str(record[SOURCE]) for record in records if SOURCE in record)
        source = message.metadata.group_id or next(named, "")
        return source if source in self._ids else EDGE


def _reaching(requests: list[Message], asked: list[Asked]) -> list[Message]:
    """Return the requests that get to their nodes, each with when it does."""
    pairs = zip(requests, asked, strict=True)
    return [stamped(request, each.arrived.at_s) for request, each in pairs if each.arrives]
