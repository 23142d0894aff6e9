"""What a run has cost so far: bytes, virtual seconds, joules and FLOPs, by node and link."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flwr.app import ConfigRecord

from mfd_flower.accounting.wire import Size
from mfd_flower.network.clock import START, Clock, Moment
from mfd_flower.network.delivery import Sending, Sent, deliver
from mfd_flower.network.kpis import MODEL_TO_TERMINAL
from mfd_flower.network.world import EDGE, Transfer, World
from mfd_flower.records import integer, number
from mfd_flower.runtime.member_links import MemberLinks, pipeline_s

COUNTERS = (
    *("updates", "peak_node_bytes", "flops", "joules", "joules_by", "spectrum_hz_s"),
    *("node_flops", "node_peak_bytes", "node_joules", "model_transfers"),
    *("wire_by_type", "_bytes", "_node_bytes", "_sensed"),
)
TOTALS = ("payload", "wire", "relay", "up", "down", "d2d", "backhaul")


class Billed(NamedTuple):
    """A message to be billed."""

    transfer: Transfer
    size: Size
    message_type: str
    begins_s: float
    until_s: float
    """When its sender gives up waiting."""


class Bill:
    """Counts what messages and work cost in a world.

    Attributes
    ----------
    updates
        Local fits so far.
    flops, joules
        Of all nodes and the server together.
    joules_by
        The joules by what took them: ``compute``, ``radio`` and ``sensing``, which is acquiring the
        samples of a node, once.
    spectrum_hz_s
        Bandwidth times the time for which messages had it alone.
    peak_node_bytes
        Largest memory that one node reported.
    node_flops, node_joules, node_peak_bytes
        FLOPs and joules so far and largest memory by address.
    model_transfers
        Messages of training, ``all`` of them, those that arrived ``in_time`` as 3GPP asks of models
        that terminals are sent, and those sent ``at_rate``, see `mfd_flower.network.kpis`.
    wire_by_type
        The `wire` of `totals` by message type: what was payload's and what was control's. What
        links beside the star carried stands under ``<message type>.link``.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = Clock()
        self._known = START
        self._bytes: Counter[str] = Counter()
        self._node_bytes: Counter[str] = Counter()
        self._on_air: list[tuple[Transfer, float, float]] = []
        self._sensed: defaultdict[str, int] = defaultdict(int)
        self.updates, self.peak_node_bytes = 0, 0
        self.flops, self.joules, self.spectrum_hz_s = 0.0, 0.0, 0.0
        self.joules_by: defaultdict[str, float] = defaultdict(float)
        self.node_flops: defaultdict[str, float] = defaultdict(float)
        self.node_joules: defaultdict[str, float] = defaultdict(float)
        self.node_peak_bytes: defaultdict[str, int] = defaultdict(int)
        self.model_transfers: Counter[str] = Counter(all=0, in_time=0, at_rate=0)
        self.wire_by_type: Counter[str] = Counter()

    def totals(self) -> dict[str, int]:
        """Return the bytes so far by kind."""
        return {name: self._bytes[name] for name in TOTALS}

    @property
    def virtual_seconds(self) -> float:
        """Time of the last thing that anybody waited for: an answer, a packet that landed."""
        return self._known.at_s

    @property
    def known(self) -> Moment:
        """That time, and what the chain of things that led to it took."""
        return self._known

    @property
    def node_bytes(self) -> dict[str, int]:
        """Wire bytes that each node sent and received, by address."""
        return dict(self._node_bytes)

    @property
    def busiest_node_bytes(self) -> int:
        """Wire bytes of the node that sent and received most."""
        return max(self._node_bytes.values(), default=0)

    def ready_s(self, address: str) -> float:
        """Return when a node is done with all it was sent, in virtual seconds."""
        return self._clock.free_s(address)

    def bill_server(self, report: Mapping[str, Any], began: Moment) -> None:
        """Bill work of the server itself, which it began then beside other things.

        Of its links as a member of a split model the members at the other ends tell.
        """
        self._bill_flops(EDGE, flops := report["flops"], began.at_s)
        seconds = flops / self._world.device(EDGE).flops_per_s
        if "fill" in report:
            each_s = (self._world.latency_s(EDGE, peer, began.at_s) for peer in report["peers"])
            latency_s = max(each_s, default=0.0)
            seconds = pipeline_s(report, seconds, latency_s)
        self._know(began.later(began.at_s + seconds, "compute"))

    def wait_until(self, at_s: float) -> None:
        """Let the server wait for something that is no message."""
        self._know(self._known.later(max(at_s, self._known.at_s), "waiting"))

    def plain_state(self) -> dict[str, Any]:
        """Return all counters and clocks."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        on_air = [[*transfer, *times] for transfer, *times in self._on_air]
        clocks = {"clock": self._clock.state(), "known": self._known.numbers, "on_air": on_air}
        return {**kept, **clocks, "world": self._world.state()}

    def load_plain_state(self, kept: dict[str, Any]) -> None:
        """Go on counting from there."""
        self._clock.load_state(kept["clock"])
        self._known = Moment.of(kept["known"])
        self._world.load_state(kept["world"])
        self._on_air = [(Transfer(*each[:3]), each[3], each[4]) for each in kept["on_air"]]
        for name in COUNTERS:
            if isinstance(kept[name], dict):
                getattr(self, name).update(kept[name])
            else:
                setattr(self, name, kept[name])

    def bill_transfers(self, messages: Sequence[Billed]) -> list[Sent]:
        """Bill messages that are sent beside each other; returns when they arrive.

        Those whose link is ``relay`` are no transfers of the algorithm, and arrive at once.
        """
        real = [each for each in messages if str(each.transfer.link) != "relay"]
        for message in messages:
            if str(message.transfer.link) == "relay":
                self._bytes["relay"] += message.size.wire
        sent = self.delivered(real)
        for message, each in zip(real, sent, strict=True):
            self.bill_sent(message, each)
        found = iter(sent)
        at_once = (Sent(0.0, each.begins_s, each.begins_s) for each in messages)
        return [
            next(found) if str(each.transfer.link) != "relay" else now
            for each, now in zip(messages, at_once, strict=True)
        ]

    def delivered(self, messages: Sequence[Billed]) -> list[Sent]:
        """Return when messages would arrive that are sent beside each other, and bill nothing."""
        first_s = min((each.begins_s for each in messages), default=0.0)
        self._on_air = [each for each in self._on_air if each[2] > first_s]
        sendings = [Sending(m.transfer, m.size.wire, m.begins_s, m.until_s) for m in messages]
        return deliver(self._world, sendings, self._on_air)

    def bill_sent(self, message: Billed, sent: Sent, *, over_star: bool = True) -> None:
        """Bill a message that was under way for so long."""
        transfer, size, message_type, begins_s, _ = message
        self._bytes["relay"] += size.wire * over_star
        self._bill_bytes(transfer, size, message_type)
        self._bill_radio(transfer, size.wire, begins_s, sent.air_s)
        for end in {transfer.source, transfer.destination} - {EDGE}:
            self._node_bytes[end] += size.wire
        if self._world.shares:
            self._on_air.append((transfer, begins_s, begins_s + sent.air_s))
        if message_type.partition(".")[0] == "train":
            self._count_transfer(size.wire, begins_s, sent)

    def _count_transfer(self, size_bytes: int, begins_s: float, sent: Sent) -> None:
        asked, arrived = MODEL_TO_TERMINAL, not math.isinf(sent.arrives_s)
        in_time = sent.arrives_s - begins_s <= asked.within_s
        at_rate = arrived and 8 * size_bytes >= asked.rate_bps * sent.air_s
        self.model_transfers.update(all=1, in_time=int(in_time), at_rate=int(at_rate))

    def sensing_s(self, address: str, report: ConfigRecord) -> float:
        """Return how long a node takes to acquire the samples that it works on the first time."""
        samples = integer(report, "samples") if "samples" in report else 0
        fresh = max(samples - self._sensed.get(address, 0), 0)
        return fresh * self._world.device(address).sample_s

    def work_s(self, address: str, report: ConfigRecord, at_s: float) -> float:
        """Return how long a node computes for what it reports and began at `at_s`."""
        seconds = number(report, "flops") / self._world.device(address).flops_per_s
        return seconds * self._world.slower(address, at_s)

    def bill_work(
        self, address: str, report: ConfigRecord, asked: str, at_s: float, links: MemberLinks
    ) -> None:
        """Bill what a node did for a message, `asked` its type."""
        flops, peak_bytes = number(report, "flops"), integer(report, "peak-bytes")
        self._bill_flops(address, flops, at_s)
        self.node_flops[address] += flops
        self.updates += integer(report, "fits")
        self.peak_node_bytes = max(self.peak_node_bytes, peak_bytes)
        self.node_peak_bytes[address] = max(self.node_peak_bytes[address], peak_bytes)
        self._bill_sensing(address, report, at_s)
        for transfer, size_bytes, air_s in links.billed_by(address, report):
            self._bill_bytes(transfer, Size(size_bytes, size_bytes), f"{asked}.link")
            self._bill_radio(transfer, size_bytes, at_s, air_s)
        self._node_bytes[address] += links.bytes_of(address, report)

    def _know(self, at: Moment) -> None:
        """Note that the server learns something, and is busy until then."""
        if at.at_s > self._known.at_s:
            self._known = at
        self._clock.occupy(EDGE, at)

    def _bill_bytes(self, transfer: Transfer, size: Size, message_type: str) -> None:
        self._bytes["payload"] += size.payload
        self._bytes["wire"] += size.wire
        self._bytes[transfer.link] += size.wire
        self.wire_by_type[message_type] += size.wire

    def _bill_radio(
        self, transfer: Transfer, size_bytes: int, begins_s: float, air_s: float
    ) -> None:
        joules = self._world.sending_j(transfer, size_bytes, begins_s, air_s)
        self._spend(transfer.source, joules, begins_s, "radio")
        self.spectrum_hz_s += self._world.spectrum_hz_s(transfer, size_bytes, begins_s, air_s)

    def _bill_sensing(self, address: str, report: ConfigRecord, at_s: float) -> None:
        samples = integer(report, "samples") if "samples" in report else 0
        fresh = max(samples - self._sensed[address], 0)
        self._sensed[address] += fresh
        if joules := fresh * self._world.device(address).sample_j:
            self._spend(address, joules, at_s, "sensing")

    def _bill_flops(self, address: str, flops: float, at_s: float) -> None:
        self.flops += flops
        joules = flops * self._world.device(address).joules_per_flop
        self._spend(address, joules, at_s, "compute")

    def _spend(self, address: str, joules: float, at_s: float, what: str) -> None:
        self.joules += joules
        self.joules_by[what] += joules
        self.node_joules[address] += joules
        self._world.spend(address, joules, at_s)
