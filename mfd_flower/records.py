"""Typed reads from Flower's records, whose values are unions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
