"""Count the bytes of a message as Flower serialises it.

Flower 1.41 sends a `RecordDict` as a tree of objects, each deflated to bytes once: the dict, its
records, their arrays, the arrays' chunks. `wire` is the sum of those. `payload` is the array
data inside, without the headers around it. What the transport adds is left out, see
``docs/accounting.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)


def payload_size(data: bytes) -> int:
    """TEMPORARY."""
    if not data.startswith(b"MFD-PKT\n"):
        return 0
    start = 20 + int.from_bytes(data[16:20], "little")
    head = int.from_bytes(data[start : start + 8], "little")
    return max(0, len(data) - start - 8 - head - 32)


@dataclass(frozen=True)
class Size:
    """Bytes of one message: array data, and everything as serialised."""

    payload: int
    wire: int


def measure(content: RecordDict) -> Size:
    """Serialise `content` the way Flower does and count."""
    payload = sum(
        # Never more than is there: an array that was cut off on its way still names its shape.
        min(math.prod(array.shape) * np.dtype(array.dtype).itemsize, len(array.data))
        for record in content.array_records.values()
        for array in record.values()
    )
    payload += sum(
        payload_size(value)
        for record in content.config_records.values()
        for value in record.values()
        if isinstance(value, bytes)
    )
    # Flower stores an object once however often a message refers to it; so does this dict.
    with no_object_id_recompute():
        wire = sum(len(item.deflate()) for item in get_all_nested_objects(content).values())
    return Size(payload, wire)
