"""How tunables travel under ``[wire]``, for strategies that know nothing of it: both ends.

To a node go the tunables that the strategy sends, in the codec. Back comes the node's update, what
it trained less what it received, in the codec too (Reisizadeh et al. 2020, *FedPAQ*, arXiv
1909.13014, section 3.3), and if ``top_k`` is below 1 only its largest entries over all tensors
together. What a node does not send stays with it and is added to its next update: error feedback,
Stich et al. 2018, *Sparsified SGD with Memory* (arXiv 1809.07599, algorithm 1).

An update is of what the node decoded; the server adds it to the tunables that the strategy sent, as
they were before they were rounded. So rounding on the way down moves the point at which a node
begins, and nothing of the model is lost by it: the sum is the one that a residual at the server
would lead to (Tang et al. 2019, *DoubleSqueeze*, arXiv 1905.05957), and a strategy which compares
what comes back with what it sent, as FedAdam does, sees the mean update and no rounding.

Both ends know the tunables' names and shapes, so a record is one array of bytes: the parts of the
codec in the order of their names, then the positions of the entries. Each further array would cost
half a kilobyte of Flower's headers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from mfd_flower.checks import show
from mfd_flower.config import WireConfig
from mfd_flower.packets.codecs import check_values, decode, encode, layouts
from mfd_flower.packets.frame import PacketError
from mfd_flower.packets.top_k import count_of, largest, positions_from_bytes, positions_to_bytes
from mfd_flower.records import tensors_of

ARRAYS, UPDATE = "arrays", "update"
"""The record of a node's reply, as its handler makes it and as it travels."""
CODED = ":coded"
"""Ends the name of a record of a request that is in the codec."""
DATA, ENTRIES = "data", "entries"
"""The array of such a record, and the name under which the codec gets the entries of `top_k`."""
NUMPY_HEAD = b"\x93NUMPY\x01\x00"

Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
"""Of a run's tunables, by name."""


def coded_content(content: RecordDict, wire: WireConfig, shapes: Shapes) -> RecordDict:
    """Return what a node is sent for a request; all but tunables travels as it is.

    Raises
    ------
    PacketError
        If a value is not finite or beyond the codec's range.
    """
    if wire.codec == "fp32":
        return content
    coded = {
        f"{name}{CODED}": _record(_bytes(encode(_floats(record), wire.codec)[0]))
        for name, record in content.array_records.items()
        if _are_tunables(record, shapes)
    }
    return renamed(content, {name.removesuffix(CODED): name for name in coded}, coded)


def decoded_content(content: RecordDict, wire: WireConfig, shapes: Shapes) -> RecordDict:
    """Return the request that a node was sent; `PacketError` if it is not in the codec."""
    decoded = {
        name.removesuffix(CODED): ArrayRecord(_decoded(_data(record), wire.codec, shapes))
        for name, record in content.array_records.items()
        if name.endswith(CODED)
    }
    return renamed(content, {f"{name}{CODED}": name for name in decoded}, decoded)


def coded_update(
    update: Tensors, wire: WireConfig, residual: Tensors
) -> tuple[ArrayRecord, dict[str, Tensor]]:
    """Return the record that a node sends for an update, and what of it is not in there.

    `residual`, what was not in earlier ones, is added to the update first. `PacketError` if a value
    is not finite or beyond the codec's range.
    """
    if wire.top_k == 1:
        encoded, left = encode(update, wire.codec, residual)
        return _record(_bytes(encoded)), left
    wanted = _flat(update)
    if residual:
        wanted += _flat(residual)
    if not torch.isfinite(wanted).all():
        raise PacketError("update: has values that are not finite")
    positions = largest(wanted, count_of(wire.top_k, len(wanted)))
    encoded, left = encode({ENTRIES: wanted[positions]}, wire.codec)
    wanted[positions] = left.get(ENTRIES, torch.zeros(len(positions)))
    places = positions_to_bytes(positions.numpy(), len(wanted))
    return _record(_bytes(encoded) + places), _split(wanted, shapes_of(update))


def with_update(
    base: ArrayRecord, update: ArrayRecord, wire: WireConfig, shapes: Shapes
) -> ArrayRecord:
    """Return the tunables that a strategy sent, with the update that a node sent back added.

    Raises
    ------
    PacketError
        If the update is not exactly one of these tunables, or takes them beyond half the codec's
        range.
    """
    if not _are_tunables(base, shapes):
        raise PacketError("update: of arrays that are not the run's tunables")
    moves = _decoded_update(update, wire, shapes)
    arrays = {name: tensor + moves[name] for name, tensor in _floats(base).items()}
    # No node must keep the others from being sent the average, which is rounded in its turn.
    encode({name: 2 * tensor for name, tensor in arrays.items()}, wire.codec)
    return ArrayRecord(arrays)


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def renamed(
    content: RecordDict, names: Mapping[str, str], records: Mapping[str, ArrayRecord]
) -> RecordDict:
    """Return a content with some records in the place of others, in the same order."""
    pairs = ((names.get(name, name), record) for name, record in content.items())
    return RecordDict({name: records.get(name, record) for name, record in pairs})


def _decoded_update(update: ArrayRecord, wire: WireConfig, shapes: Shapes) -> dict[str, Tensor]:
    data = _data(update)
    if wire.top_k == 1:
        return _decoded(data, wire.codec, shapes)
    size = sum(map(math.prod, shapes.values()))
    entries = {ENTRIES: (count_of(wire.top_k, size),)}
    end = _size_bytes(wire.codec, entries)
    values = _decoded(data[:end], wire.codec, entries)[ENTRIES]
    positions = positions_from_bytes(data[end:], len(values), size)
    whole = torch.zeros(size)
    whole[torch.from_numpy(positions)] = values
    return _split(whole, shapes)


def _bytes(encoded: Tensors) -> bytes:
    """Return encoded tensors in the order of their names."""
    parts = (encoded[name].flatten().view(torch.uint8) for name in sorted(encoded))
    return b"".join(part.numpy().tobytes() for part in parts)


def _decoded(data: bytes, codec: str, shapes: Shapes) -> dict[str, Tensor]:
    """Return the tensors of these shapes; `PacketError` if the bytes are not exactly theirs."""
    if len(data) != (size := _size_bytes(codec, shapes)):
        raise PacketError(f"{DATA}: {len(data)} bytes, must be {size}")
    encoded, begin = {}, 0
    for name, spec in sorted(layouts(shapes, shapes, codec).items()):
        part = bytearray(data[begin : begin + spec.size_bytes])
        encoded[name] = torch.frombuffer(part, dtype=spec.dtype).view(spec.shape)
        begin += spec.size_bytes
    check_values(encoded, codec)
    return decode(encoded, codec, shapes)


def _size_bytes(codec: str, shapes: Shapes) -> int:
    return sum(spec.size_bytes for spec in layouts(shapes, shapes, codec).values())


def _record(data: bytes) -> ArrayRecord:
    return ArrayRecord({DATA: Array(np.frombuffer(data, np.uint8))})


def _data(record: ArrayRecord) -> bytes:
    """Return the bytes in a record; `PacketError` if it holds anything else.

    numpy itself would allocate whatever the header in front of them declares.
    """
    if list(record) != [DATA]:
        raise PacketError(f"arrays = {show(list(record))}: must be {DATA} alone")
    array = record[DATA]
    begin = 10 + int.from_bytes(array.data[8:10], "little")
    shape = (len(array.data) - begin,)
    told = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = array.data[:8] == NUMPY_HEAD and array.data[10:begin].rstrip() == told
    if not head or (array.dtype, array.shape) != ("uint8", shape):
        raise PacketError(f"{DATA}: must be an array of bytes")
    return array.data[begin:]


def _are_tunables(record: ArrayRecord, shapes: Shapes) -> bool:
    floats = all(np.dtype(array.dtype).kind == "f" for array in record.values())
    return floats and {name: array.shape for name, array in record.items()} == dict(shapes)


def _floats(record: ArrayRecord) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors_of(record).items()}


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _split(flat: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """Inverse of `_flat`; the tensors are views."""
    names = sorted(shapes)
    parts = flat.split([math.prod(shapes[name]) for name in names])
    return {name: part.view(shapes[name]) for name, part in zip(names, parts, strict=True)}
