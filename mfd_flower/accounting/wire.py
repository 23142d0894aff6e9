"""Count the bytes of a message as Flower serialises it.

Flower 1.41 sends a `RecordDict` as a tree of objects, each deflated to bytes once: the dict, its
records, their arrays, the arrays' chunks. `wire` is the sum of those. `payload` is the array
data inside, and the tensors' in AI packets that travel as bytes, without the headers around them.
What the transport adds is left out, see ``docs/accounting.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)

from mfd_flower.packets.frame import payload_size


@dataclass(frozen=True)
class Size:
    """Bytes of one message: array data, and everything as serialised."""

    payload: int
    wire: int


def measure(content: RecordDict) -> Size:
    """Serialise `content` the way Flower does and count."""
    payload = sum(_payload(value) for record in content.values() for value in record.values())
    # Flower stores an object once however often a message refers to it; so does this dict.
    with no_object_id_recompute():
        wire = sum(len(item.deflate()) for item in get_all_nested_objects(content).values())
    return Size(payload, wire)


def _payload(value: object) -> int:
    if isinstance(value, Array):
        # Never more than is there: an array that was cut off on its way still names its shape.
        size = math.prod(value.shape) * np.dtype(value.dtype).itemsize
        return min(size, len(value.data))
    return payload_size(value) if isinstance(value, bytes) else 0
