"""The server half of a strategy that does more, or less, than Flower's rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from mfd_flower.own_model import QUERY
from mfd_flower.records import integer, joined, part_of
from mfd_flower.runtime.coded_grid import CodedGrid
from mfd_flower.runtime.metered_grid import MeteredGrid


class Step(NamedTuple):
    """Where a loop stands."""

    number: int
    arrays: ArrayRecord
    """What the run ends with if this is the last step."""
    models: Mapping[str, ArrayRecord] = {}
    """What is evaluated instead of `arrays`, by name, where walkers or nodes have their own."""


class OwnLoop:
    """Mixin for a strategy with a loop of its own; Flower's per-round hooks have nothing to do.

    One whose runs can go on from a checkpoint has `state_dict` and `load_state_dict` too. What they
    hold is of the step that was yielded last, and `steps` then yields the one after it first.
    """

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Run the algorithm; yields step 0, which has the initial `arrays`, and each later one."""
        raise NotImplementedError

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, Any], MetricRecord | None] | None = None,
    ) -> Result:
        """Run `num_rounds` rounds or tours and evaluate after each of the `steps`."""
        if not isinstance(grid, MeteredGrid | CodedGrid):
            raise TypeError("grid: must be a MeteredGrid, which knows the nodes' addresses")
        result = Result(arrays=initial_arrays)
        # What codes for a loop that has the default handlers has all of the meter that this needs.
        steps = self.steps(cast(MeteredGrid, grid), initial_arrays, num_rounds, timeout)
        for number, result.arrays, models in steps:
            if evaluate_fn and (metrics := evaluate_fn(number, models or result.arrays)):
                result.evaluate_metrics_serverapp[number] = metrics
        return result

    def summary(self) -> None:
        """Log nothing."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send nothing."""
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average nothing."""
        return None, None

    # Evaluation is outside the bill.
    configure_evaluate = configure_train

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average nothing."""
        return None


class Rounds(OwnLoop):
    """Mixin for a loop of which the server has to know the number of its last round alone."""

    done = 0

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last."""
        return RecordDict({"loop": ConfigRecord({"done": self.done})})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        self.done = integer(state.config_records["loop"], "done")


class OwnModels(Rounds):
    """Mixin for such a loop in which every node has a model of its own."""

    def __init__(self) -> None:
        self.models: dict[str, ArrayRecord] = {}
        """Of each node that has answered, the last one."""

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Do `num_rounds` rounds; the models are one a node."""
        if not self.done:
            yield Step(0, arrays)
        for number in range(self.done + 1, num_rounds + 1):
            self.done = number
            self.round(grid, number, arrays, timeout)
            yield Step(number, arrays, dict(self.models))

    def round(self, grid: MeteredGrid, number: int, arrays: ArrayRecord, timeout: float) -> None:
        """Do one round, from 1, and put what nodes have then into `models`."""
        raise NotImplementedError

    def look(self, grid: MeteredGrid, timeout: float) -> None:
        """Ask all nodes for their models, which is measurement: `mfd_flower.own_model.show_own`."""
        shown = grid.ask(QUERY, dict.fromkeys(grid.nodes, RecordDict()), timeout)
        self.models |= {name: each.array_records["own"] for name, each in shown.items()}

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last, and the models."""
        return joined({"rounds": super().state_dict(), "models": RecordDict({**self.models})})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        super().load_state_dict(part_of(state, "rounds"))
        self.models = dict(part_of(state, "models").array_records)
