"""What a strategy keeps between two rounds, and how it is made to go on behind one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.records import joined, part_of, plain_record, plain_values

HOOKS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate")
"""Methods that Flower's own loop calls with the number of the round."""


def has_flowers_loop(strategy: Strategy) -> bool:
    """Tell whether a strategy's rounds are Flower's, who numbers them from 1 on."""
    return type(strategy).start is Strategy.start


def state_of(strategy: Strategy, fresh: Strategy) -> RecordDict | None:
    """Return what `strategy` keeps, None if that cannot be told.

    It is what its ``state_dict`` returns. Without one, in Flower's own loop, it is its attributes,
    if those that are neither plain (numbers, texts, lists of such, tables of such by text) nor
    arrays or tensors, lists of them or tables of them by text, are still as in a `fresh` one.
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
        elif found := _arrays(value):
            record = ArrayRecord({key: Array(array) for key, array in found.items()})
            arrays[name], kinds[name] = RecordDict({"arrays": record}), _kind(value)
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
        container, _, leaf = kind.partition(" of ")
        read = torch.from_numpy if leaf == "Tensor" else np.asarray
        items = {key: read(array.numpy().copy()) for key, array in record.items()}
        values = {"record": record, "dict": items, "list": list(items.values())}
        setattr(strategy, name, items[""] if container == "one" else values[container])


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
    if isinstance(value, ArrayRecord) or _arrays(value):
        return False
    try:
        return bool(value is other or value == other)
    except Exception:  # Of arrays somewhere in it, or of whatever a strategy of anybody's keeps.
        return False


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _arrays(value: Any) -> dict[str, NDArray[Any]] | None:
    """Return an array or tensor, or a list or table of them, by key; None for anything else."""
    items: dict[Any, Any] = {"": value}
    if isinstance(value, dict | list):
        items = value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}
    if len({_leaf(item) for item in items.values()}) != 1 or not all(map(_leaf, items.values())):
        return None
    if not all(type(key) is str for key in items):
        return None
    try:
        return {key: np.asarray(item) for key, item in items.items()}
    except (RuntimeError, TypeError):  # A tensor on an accelerator, or of bfloat16.
        return None


def _kind(value: Any) -> str:
    """Return what is needed to turn arrays into such a value again."""
    if not isinstance(value, dict | list):
        return f"one of {_leaf(value)}"
    items = value.values() if isinstance(value, dict) else value
    return f"{type(value).__name__} of {_leaf(next(iter(items)))}"


def _leaf(item: Any) -> str:
    if isinstance(item, np.ndarray | np.generic) and not item.dtype.hasobject:
        return "ndarray"
    return "Tensor" if type(item) is Tensor else ""
