"""Typed reads from Flower's records, whose values are unions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord
from torch import Tensor

_reading = threading.Lock()


def tensors_of(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of a record that many threads may read at once.

    numpy parses each array's header by `ast`, which Python up to 3.11.7 cannot do in two threads at
    the same time (CPython issue 106905).
    """
    with _reading:
        return dict(record.to_torch_state_dict())


def integer(record: Mapping[str, Any], key: str) -> int:
    """Return a whole number; KeyError or TypeError if it is not there or not one."""
    value = record[key]
    if type(value) is not int:
        raise TypeError(f"{key} = {value!r}: must be a whole number")
    return value


def number(record: Mapping[str, Any], key: str) -> float:
    """Return a number; KeyError or TypeError if it is not there or not one."""
    value = record[key]
    if type(value) not in (int, float):
        raise TypeError(f"{key} = {value!r}: must be a number")
    return float(value)


def text(record: Mapping[str, Any], key: str) -> str:
    """Return a string; KeyError or TypeError if it is not there or not one."""
    value = record[key]
    if type(value) is not str:
        raise TypeError(f"{key} = {value!r}: must be a string")
    return value


def texts(record: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of strings; KeyError or TypeError if it is not there or not one."""
    value = record[key]
    if type(value) is not list or any(type(item) is not str for item in value):
        raise TypeError(f"{key} = {value!r}: must be a list of strings")
    return value
