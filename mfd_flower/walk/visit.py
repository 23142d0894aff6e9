"""One visit of a packet to a node: everything that the hop and its traits read and change.

Nothing of it lasts but what `Visit.commit` writes into the node's state: custody of the packet that
goes on, what traits keep for this walker, the ledger and the routing table, all of them together
and at the end. Whoever fails before has changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from torch import Tensor

from mfd_flower.node import Node
from mfd_flower.packets import Packet, PacketError, repack
from mfd_flower.packets.members import MOST_MEMBERS, members_in
from mfd_flower.records import texts
from mfd_flower.routing import RoutingTable, Trail, with_laplace_noise
from mfd_flower.walk.custody import PACKET, Custody, packet_in, sealed
from mfd_flower.walk.node_ledger import NodeLedger
from mfd_flower.walk.plan import Plan, plan_of, version_zero
from mfd_flower.walk.trait import Fit

TABLE = "routing-table."
TRAIL = "trail/"
SET = "members"
"""Record of a collaboration set's members, and what they are called in it."""
VIA = "via"
"""Record by which a holder tells the network over which neighbour its packet goes."""
NOISE = 2
"""Purpose of the generator that noises label counts: one draw a node, however often it is asked."""


@dataclass
class Visit:
    """A node with a packet in its hands."""

    node: Node
    plan: Plan
    context: Context
    content: RecordDict = field(default_factory=RecordDict)
    """The message that brought the packet."""
    packet: Packet = field(init=False)
    """As it arrived, made full."""
    start: Packet = field(init=False)
    """What training begins from: the same, or its parent if the version was refused."""
    only: set[str] = field(init=False)
    """Names of the tunables that are trained."""
    fit: Fit = field(init=False)
    changes: dict[str, Tensor] = field(init=False)
    """What goes into the next version."""
    header: dict[str, Any] = field(default_factory=dict)
    """Header fields of the next version, the next hop among them."""
    onward: Packet = field(init=False)
    """The packet as it is sent on, full."""
    beside: RecordDict = field(default_factory=RecordDict)
    """What travels with it, kept in custody too."""
    answers: RecordDict = field(default_factory=RecordDict)
    """What the reply has besides: the receipt."""
    base: tuple[str, int] | None = None
    """Version that the receiver is known to hold, and its last update."""
    table_changed: bool = False
    merged: list[str] = field(default_factory=list)
    """Versions of other walkers that were mixed in."""
    claims: dict[str, float] = field(default_factory=dict)
    """What the ledger's entry says of the next version."""
    _staged: dict[str, ArrayRecord | ConfigRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context) -> Visit:
        """Return a visit to the node that a handler is called on, without a packet yet."""
        node = Node.of(context)
        return cls(node, plan_of(node.run), context)

    @classmethod
    def open(cls, context: Context, content: RecordDict, least_ttl: int = 1) -> Visit:
        """Read the packet in a message; `PacketError` if not whole, not for this node, or spent."""
        visit = cls.of(context)
        node, packet = visit.node, packet_in(content)
        if packet.destination != node.address:
            raise PacketError(f"destination = {packet.destination}: this node is {node.address}")
        if packet.ttl < least_ttl:
            raise PacketError("ttl = 0: this packet has no hop left")
        if len(packet.seen) != node.num_classes:
            said = "classes, this node's data has another number"
            raise PacketError(f"seen: {len(packet.seen)} {said}")
        visit.content, visit.packet, visit.start = content, packet, packet
        return visit

    @classmethod
    def again(cls, context: Context, walker: str) -> Visit:
        """Go on with the packet in custody; raises `PacketError` if there is none."""
        visit = cls.of(context)
        visit.take_up(walker)
        return visit

    def repeated(self) -> bool:
        """Tell whether the packet came before, and take up what was made of it then.

        No update is made twice, whatever is sent twice.
        """
        known = self.custody.header(self.packet.walker)
        if known is None or known.packet_id != self.packet.packet_id:
            return False
        made = (known.hop, known.parent) == (self.packet.hop + 1, self.packet.version)
        refused = self.plan.judges and known.hop == self.packet.hop
        refused = refused and self.ledger.refused(self.packet.version, by=self.node.address)
        if made or refused:
            self.take_up(self.packet.walker)
        return made or refused

    def take_up(self, walker: str) -> None:
        """Go on with a walker's packet as it lies in custody, and with what lies beside it."""
        self.onward, self.beside = self.custody.kept(walker), self.custody.records(walker)
        del self.beside[PACKET]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Tunables of `start`; raises `PacketError` if they are not the version it names."""
        return self.start.decoded()

    @cached_property
    def told_counts(self) -> Sequence[float]:
        """Samples of each class, as this node lets others know them."""
        exact = [float(count) for count in self.node.label_counts]
        if not (epsilon := self.plan.policy.noise_epsilon):
            return exact
        return with_laplace_noise(exact, epsilon, self.node.rng(0, NOISE))

    @cached_property
    def custody(self) -> Custody:
        """Packets that this node has sent on."""
        return Custody(self.context.state)

    @cached_property
    def ledger(self) -> NodeLedger:
        """Replica of the node."""
        return NodeLedger(self.node, self.context)

    @cached_property
    def table(self) -> RoutingTable:
        """Routing table of the node, without what is too old."""
        state, start = self.context.state.config_records, len(TABLE)
        entries = {name[start:]: state[name] for name in state if name.startswith(TABLE)}
        table = RoutingTable.from_entries(self.node.address, entries)
        self.table_changed = bool(table.expire(self.node.world_view().at_s)) or self.table_changed
        return table

    @cached_property
    def members(self) -> frozenset[str] | None:
        """Who belongs to the collaboration set, as far as this node was told; None: all."""
        if not self.plan.policy.area:
            return None
        told = self.context.state.config_records.get(SET)
        return frozenset(texts(told, SET) if told is not None else ())

    def is_member(self, address: str) -> bool:
        """Tell whether a node belongs to the collaboration set."""
        return self.members is None or address in self.members

    def held_version(self, walker: str) -> Packet:
        """Return the newest version of a walker that this node has: at first what all begin as."""
        return self.custody.held(walker) or version_zero(self.node.run)

    def recall(self, trait: str) -> Any:
        """Return what a trait kept for this packet's walker at an earlier visit, or None."""
        return self.context.state.get(self._key(trait))

    def keep(self, trait: str, record: ArrayRecord | ConfigRecord) -> None:
        """Let a trait keep a record for this packet's walker, once the hop is committed."""
        self._staged[self._key(trait)] = record

    def keep_for_all(self, name: str, record: ArrayRecord | ConfigRecord) -> None:
        """Keep a record of this node's, whichever walker comes, once the hop is committed."""
        self._staged[name] = record

    def trail(self) -> Trail:
        """Return what this node remembers of the walker's tour: who brought it the first time."""
        walker, state = self._newest.walker, self.context.state.config_records
        told = state.get(f"{TRAIL}{walker}")
        if "start" in vars(self) and self._is_first():
            source = self.start.source
            return Trail("" if source == self.node.address else source)
        return Trail.from_told({**told}) if told is not None else Trail()

    def keep_trail(self, trail: Trail) -> None:
        """Remember it once the hop is committed."""
        self.keep_for_all(f"{TRAIL}{self._newest.walker}", ConfigRecord({**trail.told()}))

    @property
    def _newest(self) -> Packet:
        return self.onward if "onward" in vars(self) else self.start

    def _is_first(self) -> bool:
        """Tell whether the packet came here for the first time in a tour, but not to begin it."""
        start = self.start
        told = (start.toured,) if start.toured else (start.included, start.passed)
        marks = [mark for mark in told if mark]
        came = (members_in(mark, MOST_MEMBERS, "toured") for mark in marks)
        return bool(marks) and all(self.node.address not in each for each in came)

    def pack(self, residual: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Make the next version out of `start` and `changes`; returns what encoding dropped."""
        samples = self.start.samples + self.fit.samples
        updated = {**self.start.updated, **dict.fromkeys(self.changes, self.start.hop)}
        told = {"samples": samples, "updated": updated, **self.header}
        self.onward, left = repack(self.start, self.changes, residual, **told)
        return left

    def pass_on_unchanged(self) -> None:
        """Give this visit's update up: the packet goes on as it came."""
        self.changes = {}
        self._staged.clear()
        self.onward, _ = repack(self.start, {}, **self.header)

    def outgoing(self, whole: bool = False) -> RecordDict:
        """Return the message for `onward`'s destination; `whole` if it could not take less."""
        content = RecordDict({PACKET: sealed(self.onward), **self.beside})
        if self.plan.policy.forward:
            there = self.onward.destination
            near = there in self.node.world_view().neighbours
            content[VIA] = ConfigRecord({VIA: there if near else self.table.via(there)})
        for trait in reversed(self.plan.traits):
            trait.send(self, content, whole)
        return content

    def reply(self) -> RecordDict:
        """Return the holder's word to the network, which has the packet as it brought it here."""
        self.base = (self.packet.version, self.onward.hop - 2)
        return RecordDict({**self.outgoing(), **self.answers})

    def commit(self) -> None:
        """Write what this visit leaves behind into the node's state."""
        self.custody.keep(self.onward, self.beside)
        self.context.state.update(self._staged)
        self.save()

    def save(self) -> None:
        """Write what was learnt, whatever becomes of the packet: ledger and routing table."""
        if "ledger" in self.__dict__:
            self.ledger.save()
        if self.table_changed:
            # Read before anything is removed: it may not have been looked at yet.
            state, entries = self.context.state, self.table.entries()
            for name in [name for name in state if name.startswith(TABLE)]:
                del state[name]
            for address, entry in entries.items():
                state[f"{TABLE}{address}"] = ConfigRecord({**entry})

    def _key(self, trait: str) -> str:
        return f"trait/{self.packet.walker}/{trait}"
