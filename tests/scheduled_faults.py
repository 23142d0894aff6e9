"""Faults at known places: which node, from which of its messages on, for how many."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from mfd_flower.config import FaultsConfig
from mfd_flower.network import faults
from mfd_flower.network.faults import drawn, generator
from mfd_flower.runtime.faulty_grid import FaultyGrid, Injected
from mfd_flower.runtime.metered_grid import SOURCE

KINDS = {
    fault.kind: fault
    for fault in (
        *faults.DEATHS,
        *faults.LOSSES,
        faults.DUPLICATE,
        *faults.CORRUPTIONS,
        faults.DELAY,
        faults.Fault("asleep", copies=0, reply="lost"),
        faults.Fault("partition", copies=0, reply="lost"),
        faults.Fault("request-cut-off", request="cut off"),
        faults.Fault("reply-cut-off", reply="cut off"),
    )
}
FOREVER = 10**9


class Rule(Protocol):
    """Strikes some messages."""

    def strikes(
        self, request: Message, where: Injected, counts: Mapping[str, int]
    ) -> faults.Fault | None:
        """Return what happens to a message, None for nothing.

        `counts` has the messages to its node so far by type, with this one.
        """


@dataclass(frozen=True)
class Fault:
    """A fault of a kind that hits the messages to one node, or those between the sides of a split.

    Attributes
    ----------
    occurrence, span : int
        First message hit, from 1, among those that `message_type` lets through; how many in a row,
        None for all that follow.
    message_type : str, optional
        Hit, and count, only messages of this type.
    downtime : int, optional
        After a death, how many more messages find the node down; None is for ever.
    groups : tuple of frozenset of str
        Sides of a ``partition``. Nodes in none of them reach every node.
    """

    kind: str
    address: str = ""
    occurrence: int = 1
    span: int | None = 1
    message_type: str | None = None
    downtime: int | None = None
    silent: bool = False
    late_by: int = 1
    groups: tuple[frozenset[str], ...] = ()

    def strikes(
        self, request: Message, where: Injected, counts: Mapping[str, int]
    ) -> faults.Fault | None:
        """Return what happens to a message, None for nothing."""
        if self.message_type not in (None, where.message_type):
            return None
        if self.kind == "partition":
            ends = {where.address, _source(request)}
            if len([group for group in self.groups if group & ends]) != 2:
                return None
        elif where.address != self.address:
            return None
        so_far = counts[self.message_type] if self.message_type else sum(counts.values())
        end = math.inf if self.span is None else self.occurrence + self.span
        if not self.occurrence <= so_far < end:
            return None
        effect = KINDS[self.kind]
        options: dict[str, Any] = {"silent": self.silent or effect.silent, "late_by": self.late_by}
        if effect in faults.DEATHS:
            options["downtime"] = FOREVER if self.downtime is None else self.downtime
        return replace(effect, **options)


@dataclass(frozen=True)
class Rates:
    """Faults at random, of one message type or of all."""

    config: FaultsConfig
    seed: int = 0
    message_type: str | None = None

    def strikes(
        self, request: Message, where: Injected, counts: Mapping[str, int]
    ) -> faults.Fault | None:
        """Return what happens to a message, None for nothing."""
        if self.message_type not in (None, where.message_type):
            return None
        return drawn(self.config, generator("rates", self.seed, *where[1:]))


class ScheduledGrid(FaultyGrid):
    """Injects the first of its rules that strikes a message."""

    def __init__(self, grid: Grid, rules: Iterable[Rule], addresses: Mapping[int, str]) -> None:
        self._rules = tuple(rules)
        seeds = [rule.seed for rule in self._rules if isinstance(rule, Rates)]
        super().__init__(grid, FaultsConfig(), max(seeds, default=0), addresses)
        self._by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)

    @property
    def injected(self) -> Counter[str]:
        """Number of faults that took effect by kind."""
        return Counter(entry.kind for entry in self.log)

    def fault_of(self, request: Message, where: Injected) -> faults.Fault | None:
        """Return what the rules say."""
        counts = self._by_type[where.address]
        counts[where.message_type] += 1
        strikes = (rule.strikes(request, where, counts) for rule in self._rules)
        return next((strike for strike in strikes if strike), None)


def _source(request: Message) -> str:
    """Return the address that a transfer between nodes comes from; empty for the server."""
    records = request.content.config_records.values()
    named = (str(record[SOURCE]) for record in records if SOURCE in record)
    return next(named, request.metadata.group_id)
