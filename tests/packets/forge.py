"""Take packets apart and put forged ones together, with lengths and seal that fit."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import torch
from torch import Tensor

from mfd_flower.packets import CODECS, Packet, pack, repack, restored
from mfd_flower.packets import delta as cut_down

HEADER: dict[str, Any] = {
    "packet_id": "ab" * 16,
    "model_id": "fm-tiny",
    "source": "n0",
    "destination": "n1",
    "ttl": 3,
    "hop": 4,
    "visited": ("n3", "n0"),
    "gate": 0.5,
    "seen": (1.0, 0.0, 2.5),
    "updated": {"head.bias": 4},
    "samples": 12,
}


def model(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"head.weight": (3, 5), "head.bias": (3,), "prompts": (1, 2, 4), "gain": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def full(codec: str) -> Packet:
    return pack(model(), codec=codec, **HEADER)[0]


def delta(codec: str) -> Packet:
    changes = {"head.bias": torch.tensor([1.0, 2.0, -3.0]), "prompts": torch.ones(1, 2, 4)}
    base = full(codec)
    return cut_down(repack(base, changes)[0], base.version, changes)


def of_bytes() -> Packet:
    """A packet of a code of its own, of a tour."""
    tour = {
        "tour": "0f" * 16,
        "features": "ab" * 32,
        "included": "05",
        "meeting": "n3",
        "task": "0a" * 4,
    }
    code = {"sums": torch.arange(50, dtype=torch.uint8)}
    return pack(code, codec="bytes", **{**HEADER, "updated": {"sums": 4}, **tour})[0]


def unchanged() -> Packet:
    return cut_down(full("fp32"), full("fp32").version, ())


def decoded(packet: Packet) -> dict[str, Tensor]:
    """Return what a receiver that holds `full` makes of a packet of this module."""
    held = full(packet.codec) if packet.kind == "delta" else None
    return restored(packet, held).decoded()


def all_packets() -> list[Packet]:
    return [make(codec) for codec in CODECS for make in (full, delta)] + [unchanged(), of_bytes()]


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Return header and tensors of a packet's bytes."""
    (length,) = struct.unpack_from("<I", data, 16)
    return data[20 : 20 + length], data[20 + length : -32]


def sealed(header: bytes, body: bytes) -> bytes:
    """Return a packet of these parts with the lengths and the seal that fit."""
    size = 20 + len(header) + len(body) + 32
    content = struct.pack("<8sQI", b"MFD-PKT\n", size, len(header)) + header + body
    return content + hashlib.sha256(content).digest()


def compact(value: object) -> bytes:
    """Return canonical JSON, NaN and Infinity included."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def with_field(data: bytes, name: str, value: object) -> bytes:
    """Return the packet with one header field replaced, or added."""
    header, body = parts(data)
    return sealed(compact(json.loads(header) | {name: value}), body)
