"""The AI packet: a model on its way to data, with the header that routes it.

Whitepaper, section 2.3. As bytes: magic, total length, header length, header (sorted compact JSON),
payload (safetensors), SHA-256 of all that. One packet has one such text, and travels as it. Reading
compares every declared size with what is there before it allocates, and copies the payload once. In
front of the tensors it accepts only the text that safetensors writes for the header's shapes and
codec, so offsets cannot overlap, leave gaps or point outside.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mfd_flower.canonical_json import MAX_JSON_CHARS, load_json
from mfd_flower.packets.codecs import (
    SAFETENSORS,
    Spec,
    check_specs,
    check_values,
    decode,
    implied_specs,
    tunable_names,
)
from mfd_flower.packets.digest import raw_bytes, version_digest
from mfd_flower.packets.frame import MAGIC, PREFIX, SEAL_BYTES, PacketError, wrong
from mfd_flower.packets.header import Header, parse_header

MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Packet(Header):
    """A header and the encoded tensors that travel with it; `PacketError` if they do not fit."""

    payload: Mapping[str, Tensor]
    """As `codecs.encode` returns it: every tunable in `shapes`, or in a delta some of them."""

    def __post_init__(self) -> None:
        """Check header and payload against each other."""
        super().__post_init__()
        for name, tensor in self.payload.items():
            if not isinstance(tensor, Tensor):
                raise PacketError(f"payload {name}: must be a tensor")
        check_specs(self.payload, _payload_specs(self, self.payload))
        check_values(self.payload, self.codec)
        tidy = {n: tensor.detach().cpu().contiguous() for n, tensor in sorted(self.payload.items())}
        object.__setattr__(self, "payload", tidy)

    def __eq__(self, other: object) -> bool:
        """Tell whether the headers are equal and the payloads the same bit for bit."""
        return isinstance(other, Packet) and self.to_bytes() == other.to_bytes()

    def to_bytes(self) -> bytes:
        """Return the packet's one text; worked out once."""
        if (known := self.__dict__.get("_bytes")) is None:
            header = self.header_json().encode()
            payload = _payload_pieces(self.payload)
            size = PREFIX.size + len(header) + sum(len(piece) for piece in payload) + SEAL_BYTES
            pieces = [PREFIX.pack(MAGIC, size, len(header)), header, *payload]
            seal = hashlib.sha256()
            for piece in pieces:
                seal.update(piece)
            known = b"".join([*pieces, seal.digest()])
            object.__setattr__(self, "_bytes", known)
        return known

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, max_bytes: int = MAX_BYTES) -> Self:
        """Read a packet from bytes of unknown origin.

        Input longer than `max_bytes` is refused unread; `PacketError` if anything at all is not as
        `to_bytes` writes it. The version is not compared here, since that needs decoding: `decoded`
        does.
        """
        view = memoryview(data).cast("B")
        if len(view) > max_bytes:
            raise PacketError(f"packet: {len(view)} bytes, at most {max_bytes} are accepted")
        start, end = _header_end(view), len(view) - SEAL_BYTES
        if hashlib.sha256(view[:end]).digest() != view[end:]:
            raise PacketError("packet: altered on its way, the seal does not match")
        header = _parsed(view, start)
        return cls(**header.values(), payload=_read_payload(header, view[start:end]))

    def decoded(self) -> dict[str, Tensor]:
        """Return every tunable as float32, after comparing the version; worked out once.

        `PacketError` if this is a delta, which `delta.restored` makes full first, or the result is
        not the version that the header names.
        """
        if self.kind == "delta":
            said = "a delta needs the packet of that version"
            raise PacketError(f"base = {self.base[:12]}...: {said}")
        if "_decoded" not in self.__dict__:
            tensors = decode(self.payload, self.codec, self.shapes)
            if (found := version_digest(tensors)) != self.version:
                said = f"the payload decodes to {found[:12]}..."
                raise PacketError(f"version = {self.version[:12]}...: {said}")
            self.knowing(tensors)
        return dict(self.__dict__["_decoded"])

    def knowing(self, tensors: Mapping[str, Tensor]) -> Self:
        """Keep what the payload is known to decode to, as `decoded` returns it."""
        object.__setattr__(self, "_decoded", {name: tensors[name] for name in self.shapes})
        return self


def header_of(data: bytes) -> Header:
    """Read the header of a packet whose bytes were verified before; the seal is not compared."""
    view = memoryview(data)
    return _parsed(view, _header_end(view))


def _header_end(view: memoryview) -> int:
    """Return where the payload begins; what the prefix claims is compared with what is there."""
    end = len(view) - SEAL_BYTES
    if end < PREFIX.size:
        raise PacketError(f"packet: {len(view)} bytes are too few")
    magic, size, length = PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise PacketError("packet: does not begin as an AI packet does")
    if size != len(view):
        raise PacketError(f"packet: claims {size} bytes, {len(view)} are there")
    if PREFIX.size + length > end or length > MAX_JSON_CHARS:
        raise PacketError(f"packet: claims a header of {length} bytes, which is too long")
    return PREFIX.size + int(length)


def _parsed(view: memoryview, end: int) -> Header:
    return parse_header(_ascii("header", view[PREFIX.size : end]))


def _ascii(name: str, view: memoryview) -> str:
    try:
        return str(view, "ascii")
    except UnicodeDecodeError:
        raise PacketError(f"{name}: not ASCII") from None


def _payload_pieces(payload: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return the payload as buffers that follow one another in a safetensors file."""
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in payload.items()}
    entries, text = _described(specs)
    tensors = [raw_bytes(payload[name]) for name in entries]
    return [len(text).to_bytes(8, "little"), text.encode(), *tensors]


def _read_payload(header: Header, data: memoryview) -> dict[str, Tensor]:
    """Read the payload that belongs to `header`; the tensors share one copy of the data."""
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8:
        raise PacketError(f"payload: claims a header of {length} bytes, {len(data)} are there")
    text, body = _ascii("payload", data[8 : 8 + length]), data[8 + length :]
    told = load_json("payload", text, wrong)
    specs = _payload_specs(header, told)
    entries, wanted = _described(specs)
    for name, entry in entries.items():
        if told[name] != entry:
            said = json.dumps(entry, separators=(",", ":"))
            raise PacketError(f"payload {name}: is not described as {said}")
    if text != wanted:
        raise PacketError("payload: header spelled in another way than safetensors does")
    if len(body) != (size := sum(spec.size_bytes for spec in specs.values())):
        raise PacketError(f"payload: {len(body)} bytes of data, must be {size}")
    buffer, tensors = bytearray(body), {}
    for name, entry in entries.items():
        dtype, shape, start = specs[name].dtype, specs[name].shape, entry["data_offsets"][0]
        flat = torch.frombuffer(buffer, dtype=dtype, count=math.prod(shape), offset=start)
        tensors[name] = flat.reshape(shape)
    return tensors


def _payload_specs(header: Header, keys: Mapping[str, object]) -> dict[str, Spec]:
    """Return what the payload must hold if it has tensors of these names."""
    names = list(header.shapes) if header.kind == "full" else tunable_names(keys, header.shapes)
    return implied_specs(names, keys, header.shapes, header.codec)


def _described(specs: Mapping[str, Spec]) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what safetensors says of each tensor, in their order, and the text of all that.

    Widest dtypes come first, so that every tensor is aligned; then it goes by name.
    """
    entries, end = {}, 0
    for name in sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name)):
        start, end = end, end + specs[name].size_bytes
        told = {"dtype": SAFETENSORS[specs[name].dtype], "shape": list(specs[name].shape)}
        entries[name] = {**told, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"))
    return entries, text + " " * (-len(text) % 8)
