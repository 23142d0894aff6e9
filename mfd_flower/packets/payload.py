"""The payload of an AI packet as bytes, in the safetensors format.

Writing is what safetensors does, byte for byte. Reading is stricter: the only text accepted in
front of the data is the one that the packet's shapes and codec imply, so offsets cannot overlap,
leave gaps or point outside, and nothing is allocated before that is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mfd_flower.canonical_json import load_json
from mfd_flower.packets.codecs import SAFETENSORS, Spec, implied_specs, tunable_names
from mfd_flower.packets.digest import raw_bytes
from mfd_flower.packets.errors import PacketError, wrong
from mfd_flower.packets.header import Header


def payload_pieces(payload: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return the payload as buffers that follow one another in a safetensors file."""
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in payload.items()}
    head = _head(specs).encode()
    tensors = [raw_bytes(payload[name]) for name in _file_order(specs)]
    return [len(head).to_bytes(8, "little"), head, *tensors]


def read_payload(header: Header, data: memoryview) -> dict[str, Tensor]:
    """Read the payload that belongs to `header`; the tensors share one copy of the data.

    `PacketError` if the text in front is not what the header implies, or the data is longer or
    shorter.
    """
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8:
        raise PacketError(f"payload: claims a header of {length} bytes, {len(data)} are there")
    specs = _read_head(header, data[8 : 8 + length])
    size = sum(spec.size_bytes for spec in specs.values())
    body = data[8 + length :]
    if len(body) != size:
        raise PacketError(f"payload: {len(body)} bytes of data, must be {size}")
    buffer, tensors, start = bytearray(body), {}, 0
    for name in _file_order(specs):
        spec = specs[name]
        count = math.prod(spec.shape)
        flat = torch.frombuffer(buffer, dtype=spec.dtype, count=count, offset=start)
        tensors[name] = flat.reshape(spec.shape)
        start += spec.size_bytes
    return tensors


def payload_specs(header: Header, keys: Mapping[str, object]) -> dict[str, Spec]:
    """Return what the payload must hold if it has tensors of these names."""
    names = list(header.shapes) if header.kind == "full" else tunable_names(keys, header.shapes)
    return implied_specs(names, keys, header.shapes, header.codec)


def _read_head(header: Header, data: memoryview) -> dict[str, Spec]:
    try:
        content = str(data, "ascii")
    except UnicodeDecodeError as error:
        raise PacketError(f"payload: not ASCII: {error.reason}") from None
    found = load_json("payload", content, wrong)
    specs = payload_specs(header, found)
    for name, entry in _entries(specs).items():
        if found[name] != entry:
            wanted = json.dumps(entry, separators=(",", ":"))
            raise PacketError(f"payload {name}: is not described as {wanted}")
    if content != _head(specs):
        raise PacketError("payload: header spelled in another way than safetensors does")
    return specs


def _file_order(specs: Mapping[str, Spec]) -> list[str]:
    """Widest dtypes first, so that every tensor is aligned; then by name."""
    return sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))


def _entries(specs: Mapping[str, Spec]) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = {}
    start = 0
    for name in _file_order(specs):
        spec = specs[name]
        end = start + spec.size_bytes
        told = {"dtype": SAFETENSORS[spec.dtype], "shape": list(spec.shape)}
        entries[name] = {**told, "data_offsets": [start, end]}
        start = end
    return entries


def _head(specs: Mapping[str, Spec]) -> str:
    content = json.dumps(_entries(specs), separators=(",", ":"))
    return content + " " * (-len(content) % 8)
