"""The client half under ``[wire]``: a handler that knows nothing of it sees plain arrays.

What of an update was not sent is in the node's own Flower state, and beside it what was not sent of
the ones before the last request. A node that gets that request once more begins with the latter
again: it answers the same, and nothing is sent or kept twice.
"""

from __future__ import annotations

import hashlib
from copy import copy

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from mfd_flower.config import WireConfig
from mfd_flower.records import tensors_of, text
from mfd_flower.strategy import Handler
from mfd_flower.wire_codec import (
    ARRAYS,
    UPDATE,
    Shapes,
    Tensors,
    coded_update,
    decoded_content,
    renamed,
)

RESIDUAL, BEFORE, REQUEST = "wire-residual", "wire-residual-before", "wire-request"
"""State of a node: what is still to be sent, what was before the last request, and its digest."""


def coded(handler: Handler, wire: WireConfig, shapes: Shapes) -> Handler:
    """Return a handler that is asked, and answers, in the codec; `shapes` are of the tunables."""

    def handle(message: Message, context: Context) -> Message:
        received = copy(message)
        received.content = decoded_content(message.content, wire, shapes)
        reply = handler(received, context)
        if reply.has_content() and ARRAYS in reply.content:
            start = tensors_of(next(iter(received.content.array_records.values())))
            end = tensors_of(reply.content.array_records[ARRAYS])
            update = {name: tensor - start[name] for name, tensor in end.items()}
            record = fed_back(update, wire, context.state, digest(message.content))
            reply.content = renamed(reply.content, {ARRAYS: UPDATE}, {UPDATE: record})
        return reply

    return handle


def fed_back(update: Tensors, wire: WireConfig, state: RecordDict, request: str) -> ArrayRecord:
    """Return what is sent of an update and of what is still to be sent, and keep the rest."""
    told = state.config_records.get(REQUEST)
    again = told is not None and text(told, "digest") == request
    before = state.array_records.get(BEFORE if again else RESIDUAL)
    residual: dict[str, Tensor] = {} if before is None else tensors_of(before)
    record, left = coded_update(update, wire, residual)
    if before is not None:
        state[BEFORE] = before
    state[RESIDUAL], state[REQUEST] = ArrayRecord(left), ConfigRecord({"digest": request})
    return record


def digest(content: RecordDict) -> str:
    """Return by what a request is known again; a message that is sent twice has two ids."""
    found = hashlib.sha256()
    for name, record in sorted(content.items()):
        for key, value in sorted(record.items()):
            part = value.data if isinstance(value, Array) else repr(value).encode()
            found.update(f"{name}\n{key}\n{len(part)}\n".encode())
            found.update(part)
    return found.hexdigest()
