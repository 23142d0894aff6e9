"""Whatever happens to a packet on its way, it is refused or it is still that packet.

Two kinds of damage, 28,000 cases in all: bytes altered blindly; forgeries whose lengths and seal
fit, which must be refused or be what `to_bytes` writes.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.packets import Packet, PacketError, version_digest
from tests.packets import forge

PACKETS = forge.all_packets()
DATA = [packet.to_bytes() for packet in PACKETS]
BLIND, FORGED, EXAMPLES = 80, 60, 200
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.0, -0.0, 0.5, 1e308, math.nan, math.inf,
    -math.inf, "", "n7", "full", "delta", "int8", "fp32", "\n", "\ud800", "0" * 64, "é" * 99, [],
    [[]], ["n1"], [0.5], [1], [None], [[[[]]]], ["n0"] * 65, {}, {"gain": []}, {"gain": 1},
    {"": 1}, {"a": {"b": {}}},
]  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice([1, 2, 8, 100]))


def remove(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice([1, 2, 8, 100])]


def splice(rng: random.Random, data: bytearray) -> None:
    other = rng.choice(DATA)
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def lie_about_length(rng: random.Random, data: bytearray) -> None:
    at, width = rng.choice([(8, 8), (16, 4)])
    old = int.from_bytes(data[at : at + width], "little")
    new = rng.choice(
        [0, 1, old - 1, old + 1, old + 8, 2**31, 2**32 - 1, 2**63, rng.getrandbits(64)]
    )
    data[at : at + width] = (new % 256**width).to_bytes(width, "little")


DAMAGE: list[Callable[[random.Random, bytearray], None]] = [
    flip, truncate, insert, remove, splice, lie_about_length,
]  # fmt: skip


def junk_for(rng: random.Random, value: Any) -> Any:
    """Replace a JSON value, or something deep in it."""
    if isinstance(value, dict) and value and rng.random() < 0.6:
        key = rng.choice(sorted(value))
        return value | {key: junk_for(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], junk_for(rng, value[at]), *value[at + 1 :]]
    return rng.choice(JUNK)


def forgery(rng: random.Random, data: bytes) -> bytes:
    """Alter one part of a packet and seal it again, as somebody would who means harm."""
    header, body = forge.parts(data)
    where = rng.choice(["field", "header", "body", "mix"])
    if where == "field":
        fields = json.loads(header)
        name = rng.choice(sorted(fields))
        return forge.with_field(data, name, junk_for(rng, fields[name]))
    if where == "mix":
        other = forge.parts(rng.choice(DATA))
        mixed = [rng.choice(pair) for pair in zip((header, body), other, strict=True)]
        return forge.sealed(mixed[0], mixed[1])
    piece = bytearray({"header": header, "body": body}[where] or b"\0")
    rng.choice(DAMAGE[:5])(rng, piece)
    altered = {"header": header, "body": body, where: bytes(piece)}
    return forge.sealed(altered["header"], altered["body"])


def attempt(read: Callable[[Any], Packet], content: object) -> Packet | None:
    """Return what is read, or None if it is refused in one line; nothing else may be raised."""
    try:
        return read(content)
    except PacketError as error:
        said = str(error)
    assert "\n" not in said
    return None


def check_version(packet: Packet) -> None:
    """A packet that parses is decoded to the version it names, or refused then."""
    try:
        tensors = forge.decoded(packet)
    except PacketError:
        return
    assert version_digest(tensors) == packet.version


@given(seed=seeds)
@settings(max_examples=EXAMPLES, deadline=None)
def test_blind_damage_is_refused_or_harmless(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(BLIND):
        which = rng.randrange(len(DATA))
        altered = bytearray(DATA[which])
        for _ in range(rng.choice([1, 1, 2])):
            if len(altered) > 400:
                rng.choice(DAMAGE)(rng, altered)
        packet = attempt(Packet.from_bytes, bytes(altered))
        if packet is None:
            continue
        assert packet in PACKETS, altered.hex()


@given(seed=seeds)
@settings(max_examples=EXAMPLES, deadline=None)
def test_forgeries_are_refused_or_are_packets(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(FORGED):
        altered = forgery(rng, rng.choice(DATA))
        packet = attempt(Packet.from_bytes, altered)
        if packet is None:
            continue
        assert packet.to_bytes() == altered
        check_version(packet)
