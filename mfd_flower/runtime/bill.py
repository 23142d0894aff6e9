"""What a run has cost so far: bytes, virtual seconds, joules and FLOPs, by node and link."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from flwr.app import ConfigRecord

from mfd_flower.accounting.wire import Size
from mfd_flower.network.clock import Clock
from mfd_flower.network.delivery import Sending, Sent, deliver
from mfd_flower.network.world import EDGE, Transfer, World
from mfd_flower.records import integer, number

COUNTERS = (
    *("_known_s", "updates", "peak_node_bytes", "flops", "joules", "node_flops", "node_peak_bytes"),
    *("wire_by_type", "_bytes", "_node_bytes"),
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
    peak_node_bytes
        Largest memory that one node reported.
    node_flops, node_peak_bytes
        FLOPs so far and largest memory by address.
    wire_by_type
        The `wire` of `totals` by message type: what was payload's and what was control's. What
        links beside the star carried stands under ``<message type>.link``.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = Clock()
        self._known_s = 0.0
        self._bytes: Counter[str] = Counter()
        self._node_bytes: Counter[str] = Counter()
        self._on_air: list[tuple[Transfer, float, float]] = []
        self.updates, self.peak_node_bytes = 0, 0
        self.flops, self.joules = 0.0, 0.0
        self.node_flops: defaultdict[str, float] = defaultdict(float)
        self.node_peak_bytes: defaultdict[str, int] = defaultdict(int)
        self.wire_by_type: Counter[str] = Counter()

    def totals(self) -> dict[str, int]:
        """Return the bytes so far by kind."""
        return {name: self._bytes[name] for name in TOTALS}

    @property
    def virtual_seconds(self) -> float:
        """Time of the last thing that anybody waited for: an answer, a packet that landed."""
        return self._known_s

    @property
    def busiest_node_bytes(self) -> int | None:
        """Wire bytes of the node that sent and received most.

        None where nodes reported links beside the star: of those one end alone is known.
        """
        beside = any(kind.endswith(".link") for kind in self.wire_by_type)
        return None if beside else max(self._node_bytes.values(), default=0)

    def ready_s(self, address: str) -> float:
        """Return when a node is done with all it was sent, in virtual seconds."""
        return self._clock.free_s(address)

    def bill_server(self, flops: float, seconds: float, began_s: float) -> None:
        """Bill work of the server itself, which began at `began_s` beside other things."""
        self._bill_flops(EDGE, flops, began_s)
        self._know(began_s + seconds)

    def plain_state(self) -> dict[str, Any]:
        """Return all counters and clocks."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        on_air = [[*transfer, *times] for transfer, *times in self._on_air]
        clocks = {"busy_until_s": self._clock.busy_until_s, "on_air": on_air}
        return {**kept, **clocks, "world": self._world.state()}

    def load_plain_state(self, kept: dict[str, Any]) -> None:
        """Go on counting from there."""
        self._clock.busy_until_s.update(kept["busy_until_s"])
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

    def bill_sent(self, message: Billed, sent: Sent) -> None:
        """Bill a message that was under way for so long."""
        transfer, size, message_type, begins_s, _ = message
        for kind, size_bytes in (
            *(("relay", size.wire), ("payload", size.payload), ("wire", size.wire)),
            (transfer.link, size.wire),
        ):
            self._bytes[kind] += size_bytes
        self.wire_by_type[message_type] += size.wire
        joules = self._world.sending_j(transfer, size.wire, begins_s, sent.air_s)
        self._spend(transfer.source, joules, begins_s)
        for end in {transfer.source, transfer.destination} - {EDGE}:
            self._node_bytes[end] += size.wire
        if self._world.shares:
            self._on_air.append((transfer, begins_s, begins_s + sent.air_s))

    def work_s(self, address: str, report: ConfigRecord, at_s: float) -> float:
        """Return how long a node takes for what it reports and began at `at_s`, virtual seconds."""
        if "seconds" in report:
            return number(report, "seconds")
        seconds = number(report, "flops") / self._world.device(address).flops_per_s
        return seconds * self._world.slower(address, at_s)

    def bill_work(self, address: str, report: ConfigRecord, asked: str, at_s: float) -> None:
        """Bill what a node did for a message, `asked` its type."""
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
                joules = 8 * size_bytes * self._world.device(sender).joules_per_bit
                self._spend(sender, joules, at_s)

    def _know(self, at_s: float) -> None:
        """Note that the server learns something, and is busy until then."""
        self._known_s = max(self._known_s, at_s)
        self._clock.occupy(EDGE, at_s)

    def _bill_flops(self, address: str, flops: float, at_s: float) -> None:
        self.flops += flops
        self._spend(address, flops * self._world.device(address).joules_per_flop, at_s)

    def _spend(self, address: str, joules: float, at_s: float) -> None:
        self.joules += joules
        self._world.spend(address, joules, at_s)
