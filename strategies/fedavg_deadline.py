"""FedAvg that does not wait for stragglers: it asks more nodes than it needs, for so long alone.

Bonawitz et al. 2019, *Towards Federated Learning at Scale* (arXiv 1902.01046, sections 2.2 and 9):
130 % of the nodes wanted are asked, the round ends with those that answer first, or at a deadline,
and the others have worked for nothing. Its client half is the default `train` handler.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from mfd_flower.checks import bounded, build
from mfd_flower.runtime.coded_grid import CodedGrid
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.pass_through import PassThrough


@dataclass(frozen=True)
class DeadlineOptions:
    """How many are asked, and how long."""

    fraction_train: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Share of the nodes that a round waits for, one at least."""
    over_selection: float = bounded(0.3, 0.0)
    """How many more are asked, as a share of those."""
    deadline_s: float = bounded(0.0, 0.0)
    """Virtual seconds after which a round goes on with those that have answered; 0 for ever."""


class _Impatient(PassThrough, Grid):
    """A grid that gives up on those which nobody waits for."""

    def __init__(self, grid: MeteredGrid | CodedGrid, options: DeadlineOptions) -> None:
        self._grid: MeteredGrid | CodedGrid = grid
        self._options = options
        self.wanted = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the first replies, by the deadline."""
        deadline_s = self._options.deadline_s or math.inf
        return self._grid.send_and_receive(
            messages, timeout=timeout, deadline_s=deadline_s, first=self.wanted
        )


class FedAvgDeadline(FedAvg):
    """Average those who answer first."""

    Options = DeadlineOptions
    may_be_coded = True

    def __init__(self, **options: Any) -> None:
        self.options: DeadlineOptions = build(DeadlineOptions, options, "options.")
        super().__init__(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0)

    def start(self, grid: Grid, *arguments: Any, **keywords: Any) -> Result:
        """Run Flower's rounds on a grid that gives up on stragglers."""
        if not isinstance(grid, MeteredGrid | CodedGrid):
            raise TypeError("grid: must be a MeteredGrid, which knows virtual time")
        return super().start(_Impatient(grid, self.options), *arguments, **keywords)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask more nodes than are waited for."""
        there = len(list(grid.get_node_ids()))
        wanted = max(1, int(there * self.options.fraction_train))
        asked = min(there, math.ceil(wanted * (1 + self.options.over_selection)))
        # Flower takes as many as the share says, rounded down.
        self.fraction_train = min(1.0, (asked + 0.5) / max(there, 1))
        if isinstance(grid, _Impatient):
            grid.wanted = wanted
        return super().configure_train(server_round, arrays, config, grid)
