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

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.accounting.wire import Size, measure
from mfd_flower.config import NetworkConfig
from mfd_flower.network.clock import Clock, transfer_s
from mfd_flower.network.world import EDGE, Link, Transfer, World
from mfd_flower.records import (
    REPORT,
    integer,
    joined,
    number,
    part_of,
    plain_record,
    plain_values,
    stamped,
    taken,
)
from mfd_flower.results import reason_of
from mfd_flower.runtime.pass_through import PassThrough

SOURCE = "source"
"""Config key by which a transfer between nodes names the address that it comes from."""
LISTS = ("visits", "sources", "failures", "failed")
"""What only grows; a checkpoint adds to it."""
COUNTERS = (
    *("updates", "peak_node_bytes", "flops", "joules", "node_flops", "node_peak_bytes"),
    *("wire_by_type", "_bytes", "_node_bytes"),
)
RAISED = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""What tells that a node's code failed, not the network."""
TOTALS = ("payload", "wire", "relay", "up", "down", "d2d", "backhaul")


class _Sent(NamedTuple):
    address: str
    link: str
    arrived_s: float
    source: str


class MeteredGrid(PassThrough, Grid):
    """Bill what passes through another Grid.

    `links` maps message types, see the module's text. `world` turns bytes and FLOPs into virtual
    seconds and joules, the default ``[network]`` without it. `addresses` maps Flower's node ids:
    these are handed out in its order, and replies put into the order of sending, so that a run does
    not depend on arrival.

    Attributes
    ----------
    updates
        Local fits so far.
    flops, joules
        Of all nodes and the server together.
    peak_node_bytes
        Largest memory that one node reported.
    node_flops, node_peak_bytes
        FLOPs so far and largest memory by address.
    wire_by_type
        The `wire` of `totals` by message type: what was payload's and what was control's. What
        links beside the star carried stands under ``<message type>.link``.
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
        self._grid = grid
        self._links = dict(links or {})
        self._addresses = dict(addresses or {})
        self._ids = {address: node_id for node_id, address in self._addresses.items()}
        self._world = world or World(NetworkConfig(), len(self._addresses))
        self._clock = Clock()
        self._bytes: Counter[str] = Counter()
        self._sent: dict[str, _Sent] = {}
        self.updates, self.peak_node_bytes = 0, 0
        self.flops, self.joules = 0.0, 0.0
        self.node_flops: defaultdict[str, float] = defaultdict(float)
        self.node_peak_bytes: defaultdict[str, int] = defaultdict(int)
        self.wire_by_type: Counter[str] = Counter()
        self.visits: list[str] = []
        self.sources: list[str] = []
        self.failures: list[str] = []
        self.failed: list[str] = []
        self.raised = ""
        self._node_bytes: Counter[str] = Counter()

    def state_dict(self) -> RecordDict:
        """Return all counters and clocks, without the long `LISTS`."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        kept["busy_until_s"] = self._clock.busy_until_s
        kept["sent"] = {message_id: [*sent] for message_id, sent in self._sent.items()}
        bill = RecordDict({"bill": plain_record(kept)})
        return joined({"meter": bill, "inner": self.inner_state()})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on counting from there."""
        self.load_inner_state(part_of(state, "inner"))
        kept = plain_values(part_of(state, "meter").config_records["bill"])
        self._clock.busy_until_s.update(kept.pop("busy_until_s"))
        self._sent = {message_id: _Sent(*sent) for message_id, sent in kept.pop("sent").items()}
        for name, value in kept.items():
            if isinstance(value, dict):
                getattr(self, name).update(value)
            else:
                setattr(self, name, value)

    def totals(self) -> dict[str, int]:
        """Return the bytes so far by kind."""
        return {name: self._bytes[name] for name in TOTALS}

    @property
    def virtual_seconds(self) -> float:
        """Time at which the last actor is done."""
        return self._clock.end_s

    @property
    def busiest_node_bytes(self) -> int | None:
        """Wire bytes of the node that sent and received most.

        None where nodes reported links beside the star: of those one end alone is known.
        """
        beside = any(kind.endswith(".link") for kind in self.wire_by_type)
        return None if beside else max(self._node_bytes.values(), default=0)

    def arrival_s(self, message_id: str) -> float:
        """Return when a message that has no reply yet arrives, in virtual seconds."""
        return self._sent[message_id].arrived_s

    def ready_s(self, address: str) -> float:
        """Return when a node is done with all it was sent, in virtual seconds."""
        return self._clock.free_s(address)

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

        An error reply is no answer. Answers are waited for `timeout` seconds of wall time.
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
        """Bill the requests and send them."""
        requests = list(messages)
        sent = self._bill_requests(requests)
        ids = list(self._grid.push_messages(_stamped(requests, sent)))
        self._remember(requests, sent)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Collect replies and bill them."""
        return [self._bill_reply(reply) for reply in self._grid.pull_messages(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Bill requests and replies; the replies come in the order of sending."""
        requests = list(messages)
        sent = self._bill_requests(requests)
        replies = list(self._grid.send_and_receive(_stamped(requests, sent), timeout=timeout))
        self._remember(requests, sent)
        places = {request.metadata.message_id: place for place, request in enumerate(requests)}
        replies.sort(key=lambda r: places.get(r.metadata.reply_to_message_id, len(places)))
        found = [self._bill_reply(reply) for reply in replies]
        for message_id in places:  # For those without a reply none will be asked.
            if (unanswered := self._sent.pop(message_id, None)) is not None:
                self.failures.append("no reply in time")
                self.failed.append(unanswered.address)
        return found

    def bill_server(self, flops: float, seconds: float, began_s: float) -> None:
        """Bill work of the server itself, which began at `began_s` beside other things."""
        self._bill_flops(EDGE, flops, began_s)
        self._clock.occupy(EDGE, began_s + seconds)

    def _remember(self, requests: list[Message], sent: list[_Sent]) -> None:
        # The grid inside gives a message its id when it sends it. A reply is matched by that id:
        # one that never comes must not shift the others, and the reply that a SuperLink makes for
        # a node which is gone does not name that node.
        for message, entry in zip(requests, sent, strict=True):
            self._sent[message.metadata.message_id] = entry

    def _bill_requests(self, requests: list[Message]) -> list[_Sent]:
        sent = []
        # A strategy often sends one and the same content to all nodes: measured once.
        sizes: dict[int, Size] = {}
        for message in requests:
            content, message_type = message.content, message.metadata.message_type
            if id(content) not in sizes:
                sizes[id(content)] = measure(content)
            address = self.address(message.metadata.dst_node_id)
            link = self._links.get(message_type, "star")
            source = EDGE if link == "star" else self._source(content)
            transfer = Transfer(source, address, cast(Link, "down" if link == "star" else link))
            starts_s = self._clock.free_s(source)
            arrives_s = self._transfer(transfer, sizes[id(content)], message_type, starts_s)
            begins_s = max(arrives_s, self._clock.free_s(address))
            sent.append(_Sent(address, link, begins_s, source if source != EDGE else ""))
        return sent

    def _bill_reply(self, reply: Message) -> Message:
        asked, message_type = reply.metadata.reply_to_message_id, reply.metadata.message_type
        unknown = _Sent(self.address(reply.metadata.src_node_id), "star", 0.0, "")
        address, link, done_s, source = self._sent.pop(asked, unknown)
        if reply.has_error():
            self.failures.append(str(reply.error.reason).strip())
            self.failed.append(address)
            if reply.error.code in RAISED and not self.raised:
                self.raised = f"{address}: {reason_of(reply.error.reason)}"
            # The sender knows of the failure one latency after the request would have arrived.
            self._clock.occupy(EDGE, done_s + self._world.latency_s(address, EDGE, done_s))
            return reply
        if (report := taken(reply.content, REPORT)) is not None:
            if message_type.partition(".")[0] == "train":
                self.visits.append(address)
                self.sources.append(source)
            done_s += self._bill_work(address, report, message_type, done_s)
        self._clock.occupy(address, done_s)
        size = measure(reply.content)
        if link == "star":
            back = Transfer(address, EDGE, "up")
            self._clock.occupy(EDGE, self._transfer(back, size, message_type, done_s))
        else:
            self._bytes["relay"] += size.wire
        return reply

    def _source(self, content: RecordDict) -> str:
        """Return the node that a transfer comes from; the edge server if none is named."""
        records = content.config_records.values()
        source = next((str(record[SOURCE]) for record in records if SOURCE in record), EDGE)
        return source if source in self._ids else EDGE

    def _transfer(self, transfer: Transfer, size: Size, message_type: str, at_s: float) -> float:
        """Bill one transfer that starts at `at_s`; returns when it arrives."""
        link: str = transfer.link
        self._bytes["relay"] += size.wire
        if link == "relay":
            return at_s
        self._bytes["payload"] += size.payload
        self._bytes["wire"] += size.wire
        self._bytes[link] += size.wire
        self.wire_by_type[message_type] += size.wire
        self._bill_sending(transfer.source, size.wire, at_s)
        for end in {transfer.source, transfer.destination} - {EDGE}:
            self._node_bytes[end] += size.wire
        return at_s + transfer_s(self._world, transfer, size.wire, at_s)

    def _bill_work(self, address: str, report: ConfigRecord, asked: str, at_s: float) -> float:
        """Bill what a node did for a message, `asked` its type; returns its virtual seconds."""
        flops, peak_bytes = number(report, "flops"), integer(report, "peak-bytes")
        self._bill_flops(address, flops, at_s)
        self.node_flops[address] += flops
        self.updates += integer(report, "fits")
        self.peak_node_bytes = max(self.peak_node_bytes, peak_bytes)
        self.node_peak_bytes[address] = max(self.node_peak_bytes[address], peak_bytes)
        for link, sender in (("up", address), ("down", EDGE), ("d2d", address)):
            if size_bytes := integer(report, link) if link in report else 0:
                for kind in ("payload", "wire", link):
                    self._bytes[kind] += size_bytes
                self.wire_by_type[f"{asked}.link"] += size_bytes
                self._bill_sending(sender, size_bytes, at_s)
        if "seconds" in report:
            return number(report, "seconds")
        return flops / self._world.device(address).flops_per_s

    def _bill_flops(self, address: str, flops: float, at_s: float) -> None:
        self.flops += flops
        self._spend(address, flops * self._world.device(address).joules_per_flop, at_s)

    def _bill_sending(self, address: str, size_bytes: int, at_s: float) -> None:
        self._spend(address, 8 * size_bytes * self._world.device(address).joules_per_bit, at_s)

    def _spend(self, address: str, joules: float, at_s: float) -> None:
        self.joules += joules
        self._world.spend(address, joules, at_s)


def _stamped(requests: list[Message], sent: list[_Sent]) -> list[Message]:
    pairs = zip(requests, sent, strict=True)
    return [stamped(request, entry.arrived_s) for request, entry in pairs]
