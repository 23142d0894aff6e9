"""Typed reads from Flower's records, whose values are unions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord
from torch import Tensor

from mfd_flower.checks import checked, show

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
    return checked(key, record[key], int, error=_wrong_type)


def number(record: Mapping[str, Any], key: str) -> float:
    """Return a number; KeyError or TypeError if it is not there or not one."""
    return checked(key, record[key], float, error=_wrong_type)


def text(record: Mapping[str, Any], key: str) -> str:
    """Return a string; KeyError or TypeError if it is not there or not one."""
    return checked(key, record[key], str, error=_wrong_type)


def texts(record: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of strings; KeyError or TypeError if it is not there or not one."""
    value = record[key]
    if type(value) is not list:
        raise _wrong_type(key, value, "must be a list of strings")
    return [checked(key, item, str, error=_wrong_type) for item in value]


def _wrong_type(name: str, value: object, accepted: str) -> TypeError:
    return TypeError(f"{name} = {show(value)}: {accepted}")
