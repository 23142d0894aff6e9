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
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from mfd_flower.accounting.wire import Size, measure
from mfd_flower.config import NetworkConfig
from mfd_flower.records import integer, number

REPORT = "report"
"""Record that a ClientApp adds for the experimenter. It is taken out before anything is billed."""
SOURCE = "source"
"""Config key by which a transfer between nodes names the address that it comes from."""
TOTALS = ("payload", "wire", "relay", "up", "down", "d2d", "backhaul")
SERVER = 0


@dataclass(frozen=True)
class _Sent:
    node_id: int
    link: str
    arrived_s: float
    place: int


class MeteredGrid(Grid):
    """Bill what passes through another Grid.

    Parameters
    ----------
    grid : Grid
        Carries the messages.
    links : mapping of str to str, optional
        Message type to link, see the module's text.
    network : NetworkConfig, optional
        Rates by which bytes and FLOPs become virtual seconds and joules.
    addresses : mapping of int to str, optional
        Flower's node id to address. Node ids are handed out in this order and replies put into the
        order of sending, so that a run does not depend on arrival.

    Attributes
    ----------
    updates : int
        Local fits so far.
    flops, joules : float
        Of all nodes together.
    peak_node_bytes : int
        Largest memory that one node reported.
    node_flops, node_peak_bytes : dict of str
        FLOPs so far and largest memory by address.
    wire_by_type : Counter of str
        The `wire` of `totals` by message type: what was payload's and what was control's. What
        links beside the star carried stands under ``<message type>.link``.
    visits : list of str
        Address of every training request in order.
    sources : list of str
        Where each of them came from; empty for the server.
    failures, failed : list of str
        Reason of every error reply, and the address that it concerns.
    """

    def __init__(
        self,
        grid: Grid,
        links: Mapping[str, str] | None = None,
        network: NetworkConfig | None = None,
        addresses: Mapping[int, str] | None = None,
    ) -> None:
        self._grid = grid
        self._links = dict(links or {})
        self._network = network or NetworkConfig()
        self._addresses = dict(addresses or {})
        self._ids = {address: node_id for node_id, address in self._addresses.items()}
        self._bytes: Counter[str] = Counter()
        self._ready_s: defaultdict[int, float] = defaultdict(float)
        self._sent: dict[str, _Sent] = {}
        self.updates = 0
        self.flops = 0.0
        self.joules = 0.0
        self.peak_node_bytes = 0
        self.node_flops: defaultdict[str, float] = defaultdict(float)
        self.node_peak_bytes: defaultdict[str, int] = defaultdict(int)
        self.wire_by_type: Counter[str] = Counter()
        self.visits: list[str] = []
        self.sources: list[str] = []
        self.failures: list[str] = []
        self.failed: list[str] = []
        self._node_bytes: Counter[int] = Counter()

    def totals(self) -> dict[str, int]:
        """Return the bytes so far by kind."""
        return {name: self._bytes[name] for name in TOTALS}

    @property
    def virtual_seconds(self) -> float:
        """Time at which the last actor is done: parallel work costs its slowest member."""
        return max(self._ready_s.values(), default=0.0)

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
        return self._ready_s[self._ids[address]]

    def address(self, node_id: int) -> str:
        """Return the address of a Flower node."""
        return self._addresses.get(node_id, str(node_id))

    def node_id(self, address: str) -> int:
        """Return Flower's node id of an address."""
        return self._ids[address]

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
        """Return the node ids, in order of their addresses if those are known."""
        connected = list(self._grid.get_node_ids())
        if not self._addresses:
            return connected
        present = set(connected)
        return [node_id for node_id in self._addresses if node_id in present]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the grid inside knows of its nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Bill the requests and send them."""
        requests = list(messages)
        sent = self._bill_requests(requests)
        ids = list(self._grid.push_messages(requests))
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
        replies = list(self._grid.send_and_receive(requests, timeout=timeout))
        self._remember(requests, sent)
        unknown = _Sent(SERVER, "star", 0.0, len(sent))
        replies.sort(key=lambda r: self._sent.get(r.metadata.reply_to_message_id, unknown).place)
        return [self._bill_reply(reply) for reply in replies]

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
        for place, message in enumerate(requests):
            content, node_id = message.content, message.metadata.dst_node_id
            if id(content) not in sizes:
                sizes[id(content)] = measure(content)
            size = sizes[id(content)]
            kind = self._links.get(message.metadata.message_type, "star")
            link = "down" if kind == "star" else kind
            source = self._source(content) if kind != "star" else SERVER
            took_s = self._transfer(link, size, message.metadata.message_type)
            if link != "relay":
                ends = [node_id, *([source] if source != SERVER else [])]
                self._node_bytes.update(dict.fromkeys(ends, size.wire))
            arrived_s = max(self._ready_s[source] + took_s, self._ready_s[node_id])
            sent.append(_Sent(node_id, kind, arrived_s, place))
            if message.metadata.message_type.partition(".")[0] == "train":
                self.visits.append(self.address(node_id))
                self.sources.append(self.address(source) if source != SERVER else "")
        return sent

    def _bill_reply(self, reply: Message) -> Message:
        unknown = _Sent(reply.metadata.src_node_id, "star", 0.0, 0)
        sent = self._sent.pop(reply.metadata.reply_to_message_id, unknown)
        node_id, done_s = sent.node_id, sent.arrived_s
        if reply.has_error():
            self.failures.append(str(reply.error.reason).strip())
            self.failed.append(self.address(node_id))
            # The sender knows of the failure one latency after the request would have arrived.
            noticed_s = done_s + self._network.latency_s
            self._ready_s[SERVER] = max(self._ready_s[SERVER], noticed_s)
            return reply
        if REPORT in reply.content:
            report = reply.content.config_records[REPORT]
            del reply.content[REPORT]
            done_s += self._bill_work(node_id, report, reply.metadata.message_type)
        size = measure(reply.content)
        self._ready_s[node_id] = max(self._ready_s[node_id], done_s)
        if sent.link == "star":
            arrived_s = done_s + self._transfer("up", size, reply.metadata.message_type)
            self._node_bytes[node_id] += size.wire
            self._ready_s[SERVER] = max(self._ready_s[SERVER], arrived_s)
        else:
            self._bytes["relay"] += size.wire
        return reply

    def bill_server(self, flops: float, seconds: float, began_s: float) -> None:
        """Bill work of the server itself, which began at `began_s` beside other things."""
        self.flops += flops
        self.joules += flops * self._network.joules_per_flop
        self._ready_s[SERVER] = max(self._ready_s[SERVER], began_s + seconds)

    def _bill_work(self, node_id: int, report: ConfigRecord, message_type: str) -> float:
        """Bill what a node did for a message; returns its virtual seconds."""
        address, flops = self.address(node_id), number(report, "flops")
        peak_bytes = integer(report, "peak-bytes")
        self.flops += flops
        self.node_flops[address] += flops
        self.joules += flops * self._network.joules_per_flop
        self.updates += integer(report, "fits")
        self.peak_node_bytes = max(self.peak_node_bytes, peak_bytes)
        self.node_peak_bytes[address] = max(self.node_peak_bytes[address], peak_bytes)
        for link in ("up", "down", "d2d"):
            size_bytes = integer(report, link) if link in report else 0
            for kind in ("payload", "wire", link):
                self._bytes[kind] += size_bytes
            self.joules += 8 * size_bytes * self._network.joules_per_bit
            if size_bytes:
                self.wire_by_type[f"{message_type}.link"] += size_bytes
        if "seconds" in report:
            return number(report, "seconds")
        return flops / self._network.flops_per_s

    def _source(self, content: RecordDict) -> int:
        for record in content.config_records.values():
            if SOURCE in record:
                return self._ids.get(str(record[SOURCE]), SERVER)
        return SERVER

    def _transfer(self, link: str, size: Size, message_type: str) -> float:
        """Bill one transfer; returns its virtual seconds."""
        self._bytes["relay"] += size.wire
        if link == "relay":
            return 0.0
        self._bytes["payload"] += size.payload
        self._bytes["wire"] += size.wire
        self._bytes[link] += size.wire
        self.wire_by_type[message_type] += size.wire
        self.joules += 8 * size.wire * self._network.joules_per_bit
        rate_bps: float = getattr(self._network, f"{link}_bps")
        return self._network.latency_s + 8 * size.wire / rate_bps
