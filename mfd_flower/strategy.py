"""Find a strategy by name and build it from settings.

A short name is a file of the `strategies` package (`mfd-walk` is `strategies/mfd_walk.py`); a full
one is ``package.module:Class``. The class is a `flwr.serverapp.strategy.Strategy`; it may carry

- ``client_actions``: message type to handler ``(Message, Context) -> Message``, its client half;
- ``links``: message type to link, see `mfd_flower.runtime.metered_grid`;
- ``Options``: a frozen dataclass of its options; the constructor gets them as keywords;
- a constructor parameter ``run``, which receives the `RunConfig`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig

Handler = Callable[[Message, Context], Message]


class OwnLoop:
    """Mixin for a strategy that overrides `start`: Flower's per-round hooks have nothing to do."""

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

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send nothing: evaluation is outside the bill."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average nothing: evaluation is outside the bill."""
        return None


def short_names() -> list[str]:
    """Return the short names of the strategies that stand in the `strategies` package."""
    package = importlib.import_module("strategies")
    modules = (m.name for m in pkgutil.iter_modules(package.__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


@functools.lru_cache(maxsize=64)
def find_strategy(name: str) -> type[Strategy]:
    """Return the class that a short or full name means.

    Raises
    ------
    ConfigError
        If there is no such module or class, or it is not a Flower strategy.
    """
    module_name, colon, class_name = name.partition(":")
    if not colon:
        names = short_names()
        if name not in names:
            accepted = f"accepted: {', '.join(names)} or package.module:Class"
            raise ConfigError("strategy", name, accepted)
        module_name = f"strategies.{name.replace('-', '_')}"
    if str(Path.cwd()) not in sys.path:
        # A command line tool does not have the working directory on sys.path as python -m does.
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError("strategy", name, f"module not importable ({error})") from error
    if not colon:
        flat = name.replace("-", "")
        found = [key for key in vars(module) if key.lower() == flat]
        class_name = found[0] if found else f"(a class named {flat!r} in any case)"
    strategy = getattr(module, class_name, None)
    if not inspect.isclass(strategy) or not issubclass(strategy, Strategy):
        raise ConfigError(
            "strategy", name, f"{module_name} has no Flower Strategy class {class_name}"
        )
    return strategy


def parameters_of(strategy: type[Strategy]) -> dict[str, Any]:
    """Return the options of a strategy with their defaults.

    They are the fields of its `Options`, a frozen dataclass; else its constructor's keywords.
    """
    if options := getattr(strategy, "Options", None):
        return {field.name: field.default for field in dataclasses.fields(options)}
    parameters = inspect.signature(strategy).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.name != "run" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


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
        if key not in accepted:
            names = ", ".join(accepted) or "none"
            raise ConfigError(f"strategies.options.{key}", value, f"{name} accepts: {names}")
    defaults: dict[str, Any] = {"fraction_evaluate": 0.0}
    for key in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        defaults[key] = min(2, run.data.nodes)
    for key, value in defaults.items():
        if key in accepted:
            keywords.setdefault(key, value)
    if "run" in inspect.signature(strategy).parameters:
        keywords["run"] = run
    try:
        return strategy(**keywords)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError("strategies.options", keywords, f"{name}: {error}") from error


def client_actions(strategy: type[Strategy]) -> Mapping[str, Handler]:
    """Return the client half of a strategy, empty for one that uses the default handlers."""
    return getattr(strategy, "client_actions", {})


def links_of(strategy: type[Strategy]) -> Mapping[str, str]:
    """Return which of a strategy's message types stand for which link."""
    return getattr(strategy, "links", {})
