"""The AI packet: a model on its way to data, with the header that routes it.

Whitepaper, section 2.3. As bytes: magic, total length, header length, header (sorted compact JSON),
tensors, SHA-256 of all that. One packet has one such text, and travels as it. The header's shapes
and codec say which tensors there are, of which dtypes and where: nothing describes them a second
time, so no offsets can overlap, leave gaps or point outside. Reading compares every declared size
with what is there before it allocates, and copies the tensors once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mfd_flower.canonical_json import MAX_JSON_CHARS
from mfd_flower.packets.codecs import (
    Spec,
    check_specs,
    check_values,
    decode,
    implied_specs,
    layouts,
)
from mfd_flower.packets.digest import raw_bytes, version_digest
from mfd_flower.packets.frame import MAGIC, PREFIX, SEAL_BYTES, PacketError
from mfd_flower.packets.header import Header, parse_header

MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Packet(Header):
    """A header and the encoded tensors that travel with it; `PacketError` if they do not fit."""

    payload: Mapping[str, Tensor]
    """As `codecs.encode` returns it: every tunable in `shapes`, or in a delta `changed` ones."""

    def __post_init__(self) -> None:
        """Check header and payload against each other."""
        super().__post_init__()
        for name, tensor in self.payload.items():
            if not isinstance(tensor, Tensor):
                raise PacketError(f"payload {name}: must be a tensor")
        names = self.travelling()
        check_specs(self.payload, implied_specs(names, self.payload, self.shapes, self.codec))
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
            payload = [raw_bytes(self.payload[key]) for key in _in_order(_specs(self))]
            size = PREFIX.size + len(header) + sum(len(part) for part in payload) + SEAL_BYTES
            pieces: list[bytes | memoryview] = [
                PREFIX.pack(MAGIC, size, len(header)),
                header,
                *payload,
            ]
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
    try:
        return parse_header(str(view[PREFIX.size : end], "ascii"))
    except UnicodeDecodeError:
        raise PacketError("header: not ASCII") from None


def _read_payload(header: Header, data: memoryview) -> dict[str, Tensor]:
    """Read the payload that belongs to `header`; the tensors share one copy of the data."""
    specs = _specs(header)
    if len(data) != (size := sum(spec.size_bytes for spec in specs.values())):
        raise PacketError(f"payload: {len(data)} bytes of tensors, must be {size}")
    buffer, tensors, start = bytearray(data), {}, 0
    for key in _in_order(specs):
        dtype, shape = specs[key].dtype, specs[key].shape
        flat = torch.frombuffer(buffer, dtype=dtype, count=math.prod(shape), offset=start)
        tensors[key] = flat.reshape(shape)
        start += specs[key].size_bytes
    return tensors


def _specs(header: Header) -> dict[str, Spec]:
    """Return what the payload of a packet with this header is, by the parts' keys."""
    return layouts(header.travelling(), header.shapes, header.codec)


def _in_order(specs: Mapping[str, Spec]) -> list[str]:
    """Return the order in a packet: widest dtypes first, so that all are aligned, then by name."""
    return sorted(specs, key=lambda key: (-specs[key].dtype.itemsize, key))
