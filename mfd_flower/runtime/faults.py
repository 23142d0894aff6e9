"""What can go wrong with a node or a message, by schedule or by rate, and damage to arrays.

A message's *occurrence* is its number among the messages of its type to its node, from 1. Whatever
is drawn is drawn from (seed, address, message type, occurrence), so that no thread and no arrival
order has a say. `FaultyGrid` puts the faults into effect. Kinds, with what the node (its ClientApp)
and the sender see:

==========================  ====================================  ==================================
kind                        node                                  sender
==========================  ====================================  ==================================
``dies-before-training``    not called; down afterwards           no reply
``dies-during-training``    nothing of its work is left; down     no reply
``dies-after-training``     called, its state survives; down      no reply
``dies-sending``            called; down afterwards               reply with its arrays cut off
``dies-after-reply``        called; down afterwards               whole reply
``asleep``                  not called, state kept                no reply
``partition``               not called, if the request's source   no reply
                            is on the other side
``request-lost``            not called                            silence
``reply-lost``              called                                silence
``reply-delayed``           called                                reply comes late
``request-duplicated``      called twice                          first reply
``request-cut-off``         arrays of the request end early       reply to that
``reply-cut-off``           called                                arrays of the reply end early
``request-corrupted``       one bit of an array is flipped        reply to that
``reply-corrupted``         called                                one bit of an array is flipped
==========================  ====================================  ==================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from mfd_flower.checks import ConfigError

Kind = Literal[
    "dies-before-training",
    "dies-during-training",
    "dies-after-training",
    "dies-sending",
    "dies-after-reply",
    "asleep",
    "partition",
    "request-lost",
    "reply-lost",
    "reply-delayed",
    "request-duplicated",
    "request-cut-off",
    "reply-cut-off",
    "request-corrupted",
    "reply-corrupted",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEATHS: tuple[Kind, ...] = KINDS[:5]


@dataclass(frozen=True)
class Fault:
    """A fault at a known place: which node, and from which of its messages on.

    Raises
    ------
    ConfigError
        If a field is not what its text accepts.
    """

    kind: Kind
    address: str = ""
    """Node whose messages are hit, ``n3``. A partition has `groups` instead."""
    occurrence: int = 1
    """First message hit, from 1, among those to the node that `message_type` lets through."""
    span: int | None = 1
    """How many messages in a row are hit; None is for ever."""
    message_type: str | None = None
    """Hit, and count, only messages of this type; None is all that the grid's faults apply to."""
    downtime: int | None = None
    """After a death, how many more messages of any type find the node down; None is for ever."""
    silent: bool = False
    """Instead of Flower's NODE_UNAVAILABLE the sender gets nothing, as it always does when a
    message is lost."""
    state_survives: bool = True
    """False takes what the ClientApp did with the node that ``dies-after-training``. As nothing of
    it can be seen on any engine, the ClientApp is then not called."""
    delay: int = 1
    """How many later messages go out before a delayed reply comes in."""
    groups: tuple[frozenset[str], ...] = ()
    """Sides of a partition. Nodes in none of them reach every node."""
    seed: int = 0
    """Decides where arrays are damaged."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("faults.kind", self.kind, f"accepted: {', '.join(KINDS)}")
        apart = self.kind == "partition"
        if apart == bool(self.address):
            accepted = "empty for a partition" if apart else f"{self.kind} needs a node's address"
            raise ConfigError("faults.address", self.address, accepted)
        disjoint = len(frozenset().union(*self.groups)) == sum(map(len, self.groups))
        if apart != (len(self.groups) > 1) or not all(self.groups) or not disjoint:
            accepted = "two or more disjoint sets of addresses" if apart else "only for a partition"
            raise ConfigError("faults.groups", self.groups, accepted)
        _check_whole("faults.occurrence", self.occurrence, 1)
        _check_whole("faults.span", self.span, 1, or_none=True)
        _check_whole("faults.downtime", self.downtime, 0, or_none=True)
        _check_whole("faults.delay", self.delay, 1)
        _check_whole("faults.seed", self.seed, 0)

    @property
    def nodes(self) -> frozenset[str]:
        """Addresses that the fault names."""
        return frozenset({self.address} if self.address else ()).union(*self.groups)

    def strikes(
        self, address: str, message_type: str, counts: Mapping[str, int], source: str | None
    ) -> Fault | None:
        """Return the fault that hits a message, or None.

        Parameters
        ----------
        address, message_type : str
            Of the message.
        counts : mapping of str to int
            Messages to this node so far by type, with this one.
        source : str or None
            Node that the request comes from; None is the server.
        """
        if self.message_type not in (None, message_type):
            return None
        if self.kind == "partition":
            sides = [group for group in self.groups if group & {address, source}]
            if len(sides) != 2:
                return None
        elif address != self.address:
            return None
        so_far = counts[self.message_type] if self.message_type else sum(counts.values())
        end = math.inf if self.span is None else self.occurrence + self.span
        return self if self.occurrence <= so_far < end else None


@dataclass(frozen=True)
class FaultRates:
    """Faults at random: the share of messages to nodes that are up which each of them hits.

    At most one fault hits a message, so the rates add up to at most 1.

    Raises
    ------
    ConfigError
        If a field is not what its text accepts.
    """

    loss: float = 0.0
    """The request or the reply is lost, each as likely."""
    death: float = 0.0
    """The node dies in one of the five ways, each as likely."""
    duplicate: float = 0.0
    corruption: float = 0.0
    """A bit of the request or of the reply is flipped, each as likely; without arrays, nothing."""
    delay: float = 0.0
    seed: int = 0
    downtime: int | None = 3
    """As in `Fault`."""
    delay_messages: int = 1
    """A delayed reply comes after so many later messages."""
    silent: bool = False
    """As in `Fault`."""
    message_type: str | None = None
    """As in `Fault`."""

    def __post_init__(self) -> None:
        for name in ("loss", "death", "duplicate", "corruption", "delay"):
            rate = getattr(self, name)
            if type(rate) not in (int, float) or not 0 <= rate <= 1:
                raise ConfigError(f"faults.{name}", rate, "a number from 0 to 1")
        total = self.loss + self.death + self.duplicate + self.corruption + self.delay
        if total > 1 + 1e-9:
            raise ConfigError("faults: sum of the rates", total, "at most 1")
        _check_whole("faults.seed", self.seed, 0)
        _check_whole("faults.downtime", self.downtime, 0, or_none=True)
        _check_whole("faults.delay_messages", self.delay_messages, 1)

    @property
    def nodes(self) -> frozenset[str]:
        """Addresses named: none, rates are for all nodes."""
        return frozenset()

    def strikes(
        self, address: str, message_type: str, counts: Mapping[str, int], source: str | None
    ) -> Fault | None:
        """Return the fault that hits a message, or None; see `Fault.strikes`."""
        if self.message_type not in (None, message_type):
            return None
        occurrence = counts[message_type]
        rng = generator("rates", self.seed, address, message_type, occurrence)
        draw = rng.random()
        shares: tuple[tuple[float, tuple[Kind, ...]], ...] = (
            (self.loss, ("request-lost", "reply-lost")),
            (self.death, DEATHS),
            (self.duplicate, ("request-duplicated",)),
            (self.corruption, ("request-corrupted", "reply-corrupted")),
            (self.delay, ("reply-delayed",)),
        )
        for rate, kinds in shares:
            if draw < rate:
                return Fault(
                    kinds[rng.integers(len(kinds))],
                    address,
                    occurrence,
                    message_type=message_type,
                    downtime=self.downtime,
                    silent=self.silent,
                    delay=self.delay_messages,
                    seed=self.seed,
                )
            draw -= rate
        return None


def generator(*key: str | int) -> np.random.Generator:
    """Return randomness that depends on the key and nothing else."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def cut_off(content: RecordDict, rng: np.random.Generator) -> RecordDict | None:
    """Return a copy in which the arrays' bytes end at a random place; None without arrays."""
    sizes = [len(array.data) for _, _, array in _arrays(content)]
    if not sum(sizes):
        return None
    left = int(rng.integers(sum(sizes)))
    kept = {}
    for (record, name, array), size in zip(_arrays(content), sizes, strict=True):
        kept[record, name] = array.data[: min(left, size)]
        left -= len(kept[record, name])
    return _with_data(content, kept)


def flip_bit(content: RecordDict, rng: np.random.Generator) -> RecordDict | None:
    """Return a copy with one bit of the arrays' values flipped; None without arrays.

    The headers around the values stay whole: the receiver can read all arrays, and only
    a checksum tells it that one is wrong.
    """
    sizes = [_value_bytes(array) for _, _, array in _arrays(content)]
    if not sum(sizes):
        return None
    place, bit = divmod(int(rng.integers(8 * sum(sizes))), 8)
    for (record, name, array), size in zip(_arrays(content), sizes, strict=True):
        if place < size:
            data = bytearray(array.data)
            data[len(data) - size + place] ^= 1 << bit
            return _with_data(content, {(record, name): bytes(data)})
        place -= size
    return None


def _arrays(content: RecordDict) -> list[tuple[str, str, Array]]:
    records = content.array_records.items()
    return [(record, name, array) for record, arrays in records for name, array in arrays.items()]


def _value_bytes(array: Array) -> int:
    return min(math.prod(array.shape) * np.dtype(array.dtype).itemsize, len(array.data))


def _with_data(content: RecordDict, data: Mapping[tuple[str, str], bytes]) -> RecordDict:
    copied = RecordDict(dict(content))
    for record, arrays in content.array_records.items():
        copied[record] = ArrayRecord(
            {
                name: Array(array.dtype, array.shape, array.stype, data[record, name])
                if (record, name) in data
                else array
                for name, array in arrays.items()
            }
        )
    return copied


def _check_whole(name: str, value: object, low: int, *, or_none: bool = False) -> None:
    if (value is None and or_none) or (type(value) is int and value >= low):
        return
    forever = ", or None for ever" if or_none else ""
    raise ConfigError(name, value, f"a whole number of at least {low}{forever}")
