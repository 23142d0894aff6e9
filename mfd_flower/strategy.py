"""Build a strategy from settings, and read what it says of itself.

Any `flwr.serverapp.strategy.Strategy` will do; it may carry

- ``client_actions``: message type to handler ``(Message, Context) -> Message``, its client half;
- ``links``: message type to link, see `mfd_flower.runtime.metered_grid`;
- ``Options``: a frozen dataclass of its keywords, with bounds and a text under each field;
- a constructor parameter ``run``, which receives the `RunConfig`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.finding import find
from mfd_flower.parameters import parameters_of

Handler = Callable[[Message, Context], Message]


class Step(NamedTuple):
    """Where a loop stands."""

    number: int
    arrays: ArrayRecord
    """What the run ends with if this is the last step."""
    models: Sequence[ArrayRecord] = ()
    """What is evaluated instead of `arrays`, where walkers or nodes have models of their own."""


class OwnLoop:
    """Mixin for a strategy with a loop of its own; Flower's per-round hooks have nothing to do."""

    def steps(
        self, grid: Grid, arrays: ArrayRecord, num_rounds: int, timeout: float
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
        result = Result(arrays=initial_arrays)
        for number, result.arrays, models in self.steps(grid, initial_arrays, num_rounds, timeout):
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


def find_strategy(name: str) -> type[Strategy]:
    """Return the class that a short or long name means, see `mfd_flower.finding`."""
    return find("strategy", name, Strategy).cls


def source_of(name: str) -> Path:
    """Return the file in which a strategy was found by this name."""
    return find("strategy", name, Strategy).file


def build_strategy(run: RunConfig) -> Strategy:
    """Build the strategy of a run.

    Evaluation is outside the bill, so a strategy of Flower's does no federated evaluation unless
    the settings ask for it, and its minimum numbers of nodes fit the federation.

    Raises
    ------
    ConfigError
        If a keyword is unknown or the constructor refuses a value.
    """
    name, keywords = run.strategy.name, run.strategy.keywords()
    strategy = find_strategy(name)
    accepted = parameters_of(strategy)
    for key, value in keywords.items():
        if moved := getattr(strategy, "moved", {}).get(key):
            raise ConfigError(f"strategies.options.{key}", value, f"is now {moved}")
        if key not in accepted:
            names = ", ".join(accepted) or "none"
            raise ConfigError(f"strategies.options.{key}", value, f"{name} accepts: {names}")
    least = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
    defaults = {"fraction_evaluate": 0.0} | dict.fromkeys(least, min(2, run.data.nodes))
    keywords |= {k: v for k, v in defaults.items() if k in accepted and k not in keywords}
    if "run" in inspect.signature(strategy).parameters:
        keywords["run"] = run
    try:
        return strategy(**keywords)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError("strategies.options", keywords, f"{name}: {error}") from error


def client_actions(strategy: type[Strategy], run: RunConfig) -> Mapping[str, Handler]:
    """Return the client half of a strategy, empty for one that uses the default handlers."""
    actions = getattr(strategy, "client_actions", {})
    return actions(run) if callable(actions) else actions


def links_of(strategy: type[Strategy], run: RunConfig) -> Mapping[str, str]:
    """Return which of a strategy's message types stand for which link."""
    links = getattr(strategy, "links", {})
    return links(run) if callable(links) else links
