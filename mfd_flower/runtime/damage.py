"""Damage on the way to the data in a message: the bytes of its arrays, and long byte strings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, RecordDict

LONG_BYTES = 1024
"""From so many bytes on a value of a ConfigRecord counts as data and not as a setting."""
Place = tuple[str, str]
"""Name of a record, and of an array or value in it."""


def flip_bit(content: RecordDict, rng: np.random.Generator) -> RecordDict | None:
    """Return a copy with one bit of the values flipped; None without data.

    The headers in front of arrays stay whole: the receiver can read them all, and only a checksum
    tells it that one is wrong.
    """
    data = _data(content)
    if total := sum(len(whole) - begin for whole, begin in data.values()):
        byte, bit = divmod(int(rng.integers(8 * total)), 8)
        for place, (whole, begin) in data.items():
            if begin + byte < len(whole):
                changed = bytearray(whole)
                changed[begin + byte] ^= 1 << bit
                return _with_data(content, {place: bytes(changed)})
            byte -= len(whole) - begin
    return None


def cut_off(content: RecordDict, rng: np.random.Generator) -> RecordDict | None:
    """Return a copy in which the data ends at a random place; None without data."""
    data = _data(content)
    if not (total := sum(len(whole) for whole, _ in data.values())):
        return None
    left, kept = int(rng.integers(total)), {}
    for name, (whole, _) in data.items():
        kept[name] = whole[:left]
        left -= len(kept[name])
    return _with_data(content, kept)


def _data(content: RecordDict) -> dict[Place, tuple[bytes, int]]:
    """Return all data, and where the values in it begin: behind an array's header."""
    found = {}
    for record_name, record in content.items():
        for name, value in record.items():
            if isinstance(value, Array):
                size = math.prod(value.shape) * np.dtype(value.dtype).itemsize
                found[record_name, name] = (value.data, max(0, len(value.data) - size))
            elif isinstance(value, bytes) and len(value) >= LONG_BYTES:
                found[record_name, name] = (value, 0)
    return found


def _with_data(content: RecordDict, changed: Mapping[Place, bytes]) -> RecordDict:
    copied = content.copy()
    for record_name in {record_name for record_name, _ in changed}:
        copied[record_name] = content[record_name].copy()
    for (record_name, name), data in changed.items():
        record: Any = copied[record_name]
        was = record[name]
        whole = isinstance(was, Array)
        record[name] = Array(was.dtype, was.shape, was.stype, data) if whole else data
    return copied
