"""What a strategy keeps between two rounds, and how it is made to go on behind one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from mfd_flower.records import joined, part_of, plain_record, plain_values

HOOKS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate")
"""Methods that Flower's own loop calls with the number of the round."""


def has_flowers_loop(strategy: Strategy) -> bool:
    """Tell whether a strategy's rounds are Flower's, who numbers them from 1 on."""
    return type(strategy).start is Strategy.start


def state_of(strategy: Strategy, fresh: Strategy) -> RecordDict | None:
    """Return what `strategy` keeps, None if that cannot be told.

    It is what its ``state_dict`` returns. Without one, in Flower's own loop, it is its attributes,
    if those that are no numbers, texts or arrays, such as FedAdam's moments, are still as in a
    `fresh` one.
    """
    if hasattr(strategy, "state_dict"):
        state: RecordDict = strategy.state_dict()
        return state
    if not has_flowers_loop(strategy):
        return None
    arrays: dict[str, RecordDict] = {}
    plain: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for name, value in vars(strategy).items():
        if name in HOOKS or _same(value, getattr(fresh, name, None)):
            continue
        if isinstance(value, ArrayRecord):
            arrays[name], kinds[name] = RecordDict({"arrays": value}), "record"
        elif _are_arrays(value):
            keys = value if isinstance(value, dict) else range(len(value))
            record = ArrayRecord({str(key): Array(np.asarray(value[key])) for key in keys})
            arrays[name], kinds[name] = RecordDict({"arrays": record}), type(value).__name__
        elif _is_plain(value):
            plain[name] = value
        else:
            return None
    told = plain_record({"plain": plain, "kinds": kinds})
    return joined({"told": RecordDict({"told": told}), "arrays": joined(arrays)})


def load_state(strategy: Strategy, state: RecordDict) -> None:
    """Inverse of `state_of`, on a fresh strategy."""
    if hasattr(strategy, "load_state_dict"):
        strategy.load_state_dict(state)
        return
    told = plain_values(part_of(state, "told").config_records["told"])
    vars(strategy).update(told["plain"])
    for name, kind in told["kinds"].items():
        record = part_of(part_of(state, "arrays"), name).array_records["arrays"]
        arrays = {key: array.numpy() for key, array in record.items()}
        values = {"record": record, "dict": arrays, "list": list(arrays.values())}
        setattr(strategy, name, values[kind])


def begin_behind(strategy: Strategy, done: int) -> None:
    """Let Flower's loop, which begins at round 1, call a strategy for the rounds behind `done`."""

    def behind(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(server_round: int, *args: Any, **keywords: Any) -> Any:
            return method(server_round + done, *args, **keywords)

        return call

    for name in HOOKS:
        setattr(strategy, name, behind(getattr(strategy, name)))


def node_metrics(strategy: Strategy) -> dict[str, Any]:
    """Return a table that always holds what nodes measured in the round that ended last.

    That is what a strategy of Flower's whose ``fraction_evaluate`` is not 0 aggregates of it.
    """
    latest: dict[str, Any] = {}
    aggregate = strategy.aggregate_evaluate

    def remembered(*args: Any, **keywords: Any) -> MetricRecord | None:
        found = aggregate(*args, **keywords)
        latest.clear()
        latest.update(found or {})
        return found

    vars(strategy)["aggregate_evaluate"] = remembered
    return latest


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, ArrayRecord) or _are_arrays(value):
        return False
    try:
        return bool(value is other or value == other)
    except ValueError:  # Of arrays somewhere in it.
        return False


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _are_arrays(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not value:
        return False
    return all(isinstance(item, np.ndarray | np.generic) for item in items)
