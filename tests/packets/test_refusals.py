"""Bytes that are not exactly a packet are refused with the field's name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from typing import Any

import pytest
import torch

from mfd_flower.packets import Header, Packet, PacketError, example_packet, pack
from tests.packets import forge

GOOD = forge.full("fp32").to_bytes()
HEX = "0" * 64
DEFAULTS: dict[str, Any] = {
    part.name: {} if part.name == "updated" else part.default
    for part in dataclasses.fields(Header)
    if part.name == "updated" or part.default is not dataclasses.MISSING
}
NO_STRINGS: list[object] = [None, True, 1, 1.5, [], {}, "", " n0", "n0\n", "é", "a" * 300]
NO_TEXTS = [bad for bad in NO_STRINGS if bad != ""]
NO_BITMAPS = [bad for bad in NO_TEXTS if bad != "a" * 300]
NO_COUNTS: list[object] = [None, True, False, 1.0, "1", [], {}, -1, 2**63, 10**400]
JUNK: dict[str, list[Any]] = {
    "protocol": [*NO_COUNTS, 0, 1, 3],
    "packet_id": [*NO_STRINGS, "ab" * 15, "AB" * 16, "gb" * 16],
    "model_id": NO_STRINGS,
    "version": [*NO_STRINGS, HEX[1:], "F" * 64],
    "parent": [*[bad for bad in NO_STRINGS if bad != ""], HEX[1:]],
    "source": [*NO_STRINGS, "n/0"],
    "destination": NO_STRINGS,
    "walker": NO_STRINGS,
    "ttl": [*NO_COUNTS, 2**31],
    "hop": [*NO_COUNTS, 2**31, 3],
    "samples": NO_COUNTS,
    "visited": [None, True, 1, "n0", {}, ["n0"] * 65, [1], [""], [None], [["n0"]]],
    "tour": [*NO_TEXTS, "0" * 31, "F" * 32],
    "features": [*NO_TEXTS, HEX[1:]],
    "included": [*NO_BITMAPS, "0", "0g", "AA", "00" * 513],
    "passed": [*NO_BITMAPS, "0"],
    "toured": [*NO_BITMAPS, "0"],
    "meeting": [*NO_TEXTS, "n/0"],
    "task": [*NO_TEXTS, "tools", "0123ABCD", "0" * 9, "0" * 64],
    "area": [*NO_TEXTS, "Cell-1", "9", "a_b"],
    "kind": [*NO_STRINGS, "half"],
    "changed": [*NO_BITMAPS, "0", "01", "00", "0f"],
    "base": [*[bad for bad in NO_STRINGS if bad != ""], HEX],
    "codec": [*NO_STRINGS, "int4", "fp16"],
    "below_gate": [None, 0, 1, 0.0, "true", [], {}, [True]],
    "gate": [None, True, "0.5", [], {}, -0.1, 1.1, math.nan, math.inf, -math.inf, 10**400],
    "seen": [None, True, 1, "1", {}, [True], ["1"], [-1.0], [math.nan], [math.inf], [0.0] * 32_769],
    "updated": [None, True, 1, "x", [], {"no": 1}, {"gain": -1}, {"gain": 5}, {"gain": True}],
    "shapes": [
        None, True, 1, "x", [], {}, {"a:scale": [1]}, {"__metadata__": [1]},
        {"": [1]}, {"é": [1]}, {"a" * 201: [1]}, {str(i): [1] for i in range(4097)},
        {"gain": [0]}, {"gain": [-1]}, {"gain": [True]}, {"gain": [1.0]}, {"gain": ["1"]},
        {"gain": [1] * 9}, {"gain": None}, {"gain": 1}, {"gain": {}}, {"gain": [2**41]},
        {"gain": [2**20] * 3}, {"gain": [2**39], "head": [2**39], "tail": [1]},
    ],
}  # fmt: skip


def test_every_field_is_tried() -> None:
    assert JUNK.keys() == {part.name for part in dataclasses.fields(Header)}


@pytest.mark.parametrize("name", JUNK)
def test_a_wrong_field_is_refused_by_name(name: str) -> None:
    # Some values are right in themselves and wrong beside another field, which is then named.
    beside = {"hop": "updated", "codec": "payload"}.get(name, name)
    for value in JUNK[name]:
        with pytest.raises(PacketError, match=f"^({name}|{beside})") as caught:
            Packet.from_bytes(forge.with_field(GOOD, name, value))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_shapes_are_those_of_the_payload() -> None:
    shapes = json.loads(forge.parts(GOOD)[0])["shapes"]
    for lie in (shapes | {"gain": [2]}, shapes | {"more": [1]}, {"gain": [], "head.bias": [3]}):
        with pytest.raises(PacketError, match="payload"):
            Packet.from_bytes(forge.with_field(GOOD, "shapes", lie))


def test_unknown_missing_and_doubled_keys_are_refused() -> None:
    header, body = forge.parts(GOOD)
    for name in ("extra", "payload", "a\nb"):
        with pytest.raises(PacketError, match=r"^header.* = 1: unknown key") as caught:
            Packet.from_bytes(forge.with_field(GOOD, name, 1))
        assert "\n" not in str(caught.value)
    for name, value in json.loads(header).items():
        rest = {key: kept for key, kept in json.loads(header).items() if key != name}
        if name not in DEFAULTS:
            with pytest.raises(PacketError, match=f"header.{name} = None: missing"):
                Packet.from_bytes(forge.sealed(forge.compact(rest), body))
        twice = header[:-1] + b"," + forge.compact({name: value})[1:]
        with pytest.raises(PacketError, match=f"header = '{name}': this key is there twice"):
            Packet.from_bytes(forge.sealed(twice, body))


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_field_left_out_has_its_default_and_is_not_spelled_out(name: str) -> None:
    packet = dataclasses.replace(Packet.from_bytes(GOOD), **{name: DEFAULTS[name]})
    data = packet.to_bytes()
    assert name not in json.loads(forge.parts(data)[0])
    assert Packet.from_bytes(data) == packet
    with pytest.raises(PacketError, match=r"^header = .*: spelled in another way"):
        Packet.from_bytes(forge.with_field(data, name, DEFAULTS[name]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"gate":0.5', b'"gate":0.50'),
        (b'"gate":0.5', b'"gate":5e-1'),
        (b'"gate":0.5', b'"gate": 0.5'),
        (b'"hop":4', b'"hop":4 '),
        (b'"n1"', b'"n\\u0031"'),
        (b'"seen":[1.0,0.0', b'"seen":[1,0.0'),
        (b'"seen":[1.0,0.0', b'"seen":[1.0,-0.0'),
        (b'"gate":0.5,', b'"gate":0.5,"kind":"full",'),
        (b'"gate":0.5,', b'"gate":-0.0,'),
        (b'"gate":0.5', b'"gate":1e999'),
    ],
)
def test_a_header_has_one_spelling(old: bytes, new: bytes) -> None:
    header, body = forge.parts(GOOD)
    assert header.count(old) == 1
    with pytest.raises(PacketError, match=r"header|gate"):
        Packet.from_bytes(forge.sealed(header.replace(old, new), body))


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff{}", b"[" * 5000, b'{"a":' * 5000, b"{}" * 9,
        b'{"a":' + b"9" * 5000 + b"}", b"[" + b"[]," * 40_000 + b"[]]", b"[" + b"0," * 200_000,
        b" " * (1 << 22) + b"{}",
    ],
)  # fmt: skip
def test_a_header_that_is_no_json_object_is_refused(header: bytes) -> None:
    _, body = forge.parts(GOOD)
    with pytest.raises(PacketError, match="header"):
        Packet.from_bytes(forge.sealed(header, body))


def test_payload_data_is_neither_longer_nor_shorter() -> None:
    header, body = forge.parts(GOOD)
    for lie in (body[:-1], body + b"\0", b""):
        with pytest.raises(PacketError, match=f"payload: {len(lie)} bytes of tensors, must be 108"):
            Packet.from_bytes(forge.sealed(header, lie))


@pytest.mark.parametrize("codec", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_payload_that_is_not_finite_is_refused(codec: str, value: float) -> None:
    data = forge.full(codec).to_bytes()
    header, body = forge.parts(data)
    dtype = forge.full(codec).payload["gain"].dtype
    bits = bytes(torch.tensor([value], dtype=dtype).view(torch.uint8).tolist())
    for at in range(0, len(body), len(bits)):
        lie = body[:at] + bits + body[at + len(bits) :]
        with pytest.raises(PacketError, match="not finite"):
            Packet.from_bytes(forge.sealed(header, lie))


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0, 1e-40, 3e38])
def test_a_scale_that_no_encoder_makes_is_refused(scale: float) -> None:
    header, body = forge.parts(forge.full("int8").to_bytes())
    lie = struct.pack("<f", scale) + body[4:]
    with pytest.raises(PacketError, match=":scale"):
        Packet.from_bytes(forge.sealed(header, lie))


def test_a_delta_brings_whole_tunables_of_its_shapes() -> None:
    data = forge.delta("int8").to_bytes()
    assert json.loads(forge.parts(data)[0])["changed"] == "0a"  # head.bias and prompts of four.
    for none in ("10", "0900", "00"):
        with pytest.raises(PacketError, match=f"changed = {none}: not a bitmap of 4 tunables"):
            Packet.from_bytes(forge.with_field(data, "changed", none))
    for other in ("01", "02", "08", "0b", "0f"):
        with pytest.raises(PacketError, match=r"payload: 19 bytes of tensors, must be"):
            Packet.from_bytes(forge.with_field(data, "changed", other))
    with pytest.raises(PacketError, match=r"changed = '01': must be empty in a full packet"):
        Packet.from_bytes(forge.with_field(GOOD, "changed", "01"))


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
def test_every_truncation_is_refused(cut: int) -> None:
    with pytest.raises(PacketError, match="packet"):
        Packet.from_bytes(GOOD[:cut])


def test_size_and_magic_are_compared_first() -> None:
    with pytest.raises(PacketError, match="at most 100 are accepted"):
        Packet.from_bytes(GOOD, max_bytes=100)
    assert Packet.from_bytes(GOOD, max_bytes=len(GOOD))
    with pytest.raises(PacketError, match="does not begin"):
        Packet.from_bytes(b"X" + GOOD[1:])
    with pytest.raises(PacketError, match="claims"):
        Packet.from_bytes(GOOD + b"\0")
    header = forge.parts(GOOD)[0]
    for length in (len(GOOD), 2**32 - 1):
        lie = GOOD[:16] + struct.pack("<I", length) + GOOD[20:-32]
        with pytest.raises(PacketError, match=f"claims a header of {length} bytes"):
            Packet.from_bytes(lie + hashlib.sha256(lie).digest())
    assert GOOD[16:20] == struct.pack("<I", len(header))
    with pytest.raises(PacketError, match="seal"):
        Packet.from_bytes(GOOD[:-1] + bytes([GOOD[-1] ^ 1]))


def test_a_packet_cannot_be_made_wrong() -> None:
    with pytest.raises(PacketError, match="payload w: must be a tensor"):
        Packet(**example_packet().values() | {"payload": {"w": [1.0]}})
    some = {name: t for name, t in example_packet().payload.items() if name != "head.bias"}
    with pytest.raises(PacketError, match=r"payload head\.bias: missing"):
        Packet(**example_packet().values() | {"payload": some})
    with pytest.raises(PacketError, match="ttl"):
        pack(forge.model(), **forge.HEADER | {"ttl": -1})
    with pytest.raises(PacketError, match="samples"):
        pack(forge.model(), **forge.HEADER | {"samples": 10**5000})


def test_the_largest_header_passes_its_own_limits() -> None:
    names = [f"{number:0200d}" for number in range(4096)]
    tensors = {name: torch.ones([1] * 8) for name in names}
    limits = {"visited": ["n" * 64] * 64, "seen": [1 / 3] * 32_768, "hop": 2**31 - 1}
    header = forge.HEADER | limits | {"updated": dict.fromkeys(names, 2**31 - 1)}
    packet, _ = pack(tensors, codec="int8", **header)
    data = packet.to_bytes()
    assert Packet.from_bytes(data).to_bytes() == data
