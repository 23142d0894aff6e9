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
from typing import cast

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.accounting.wire import Size, measure
from mfd_flower.config import NetworkConfig
from mfd_flower.network.delivery import Sent
from mfd_flower.network.world import EDGE, Link, Transfer, World
from mfd_flower.records import (
    joined,
    message_bytes,
    message_from,
    part_of,
    plain_record,
    plain_values,
    stamped,
)
from mfd_flower.runtime.bill import Billed
from mfd_flower.runtime.pass_through import PassThrough
from mfd_flower.runtime.replies import Asked, Back, Replies

SOURCE = "source"
"""Config key by which a transfer between nodes names the address that it comes from, unless its
message's group does."""
POLL_S = 0.002


class MeteredGrid(Replies, PassThrough, Grid):
    """Bill what passes through another Grid, see `Bill` and `Replies` for what it counts.

    `links` maps message types, see the module's text. `world` turns bytes and FLOPs into virtual
    seconds and joules, the default ``[network]`` without it; a node out of its reach is answered
    for by an error, as Flower does. `addresses` maps Flower's node ids: these are handed out in its
    order, and replies put into the order of sending, so that a run does not depend on arrival.
    """

    def __init__(
        self,
        grid: Grid,
        links: Mapping[str, str] | None = None,
        world: World | None = None,
        addresses: Mapping[int, str] | None = None,
    ) -> None:
        addresses = dict(addresses or {})
        super().__init__(world or World(NetworkConfig(), len(addresses)), addresses)
        self._grid = grid
        self._links = dict(links or {})
        self._ids = {address: node_id for node_id, address in addresses.items()}
        self._lost: dict[str, Message] = {}
        self._back: dict[str, Back] = {}
        self._unsent = 0

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

    def bill_backhaul(self, kind: str, contents: Sequence[RecordDict]) -> None:
        """Bill messages of a kind between edge servers and the cloud, all at the same time.

        Both are the server's process here, so that nothing of it is the star's.
        """
        began = self._clock.free(EDGE)
        sizes = [measure(content) for content in contents]
        transfer = Transfer(EDGE, EDGE, "backhaul")
        billed = [Billed(transfer, size, kind, began.at_s, math.inf) for size in sizes]
        for message, sent in zip(billed, self.delivered(billed), strict=True):
            self.bill_sent(message, sent, over_star=False)
            self._know(began.later(sent.arrives_s, "backhaul"))

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
