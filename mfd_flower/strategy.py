"""Build a strategy from settings, and read what it says of itself.

Any `flwr.serverapp.strategy.Strategy` will do; it may carry

- ``client_actions``: message type to handler ``(Message, Context) -> Message``, its client half;
- ``links``: message type to link, see `mfd_flower.runtime.metered_grid`;
- ``Options``: a frozen dataclass of its keywords, with bounds and a text under each field;
- a constructor parameter ``run``, which receives the `RunConfig`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp.strategy import Strategy

from mfd_flower.checks import ConfigError, checked
from mfd_flower.config import RunConfig
from mfd_flower.finding import find
from mfd_flower.parameters import parameters_of

Handler = Callable[[Message, Context], Message]


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
        If a keyword is unknown, the constructor refuses a value, or `run.wire` asks for a coding of
        what the strategy's own halves send each other.
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
        _check_type(f"strategies.options.{key}", value, accepted[key]["type"])
    least = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
    defaults = {"fraction_evaluate": 0.0} | dict.fromkeys(least, min(2, run.data.nodes))
    keywords |= {k: v for k, v in defaults.items() if k in accepted and k not in keywords}
    _check_wire(run, strategy)
    if "run" in inspect.signature(strategy).parameters:
        keywords["run"] = run
    try:
        return strategy(**keywords)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError("strategies.options", keywords, f"{name}: {error}") from error


def _check_type(name: str, value: object, kind: str) -> None:
    """Refuse a value of another type than the annotation says, where that is a plain one."""
    plain = {"int": int, "float": float, "str": str, "bool": bool}
    if kind in plain:
        checked(name, value, plain[kind])


def _check_wire(run: RunConfig, strategy: type[Strategy]) -> None:
    """Refuse to code what is not sent to the default handlers, in Flower's rounds or as said."""
    rounds = strategy.start is Strategy.start or getattr(strategy, "may_be_coded", False)
    if rounds and not hasattr(strategy, "client_actions"):
        return
    for field in dataclasses.fields(run.wire):
        if (value := getattr(run.wire, field.name)) != field.default:
            accepted = f"accepted by {run.strategy.name}, which has its own messages"
            raise ConfigError(f"wire.{field.name}", value, f"{accepted}: {field.default}")


def client_actions(strategy: type[Strategy], run: RunConfig) -> Mapping[str, Handler]:
    """Return the client half of a strategy, empty for one that uses the default handlers."""
    actions = getattr(strategy, "client_actions", {})
    return actions(run) if callable(actions) else actions


def links_of(strategy: type[Strategy], run: RunConfig) -> Mapping[str, str]:
    """Return which of a strategy's message types stand for which link."""
    links = getattr(strategy, "links", {})
    return links(run) if callable(links) else links
