"""A packet survives bytes and Flower's records unchanged, and brings what its version names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from torch import Tensor

from mfd_flower.accounting.wire import measure
from mfd_flower.packets import (
    CODECS,
    Packet,
    PacketError,
    decode,
    encode,
    example_packet,
    pack,
    version_digest,
)
from mfd_flower.walk.custody import PACKET, packet_in, sealed
from tests.packets import forge

PACKETS = {f"{p.kind}-{p.codec}-{len(p.payload)}": p for p in forge.all_packets()}
OPTIONAL = {"visited", "seen", "updated", "gate", "samples"}
every_packet = pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def over_flower(content: RecordDict) -> RecordDict:
    """Send records through Flower's own protobuf messages."""
    proto = recorddict_to_proto(content)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


@every_packet
def test_bytes_and_back(packet: Packet) -> None:
    data = packet.to_bytes()
    back = Packet.from_bytes(data)
    assert back == packet
    assert back.to_bytes() == data
    assert Packet.from_bytes(memoryview(bytearray(data))) == packet
    assert same(forge.decoded(back), forge.decoded(packet))


@every_packet
def test_over_flower_and_back(packet: Packet) -> None:
    content = RecordDict({PACKET: sealed(packet)})
    assert measure(content).payload == sum(t.nbytes for t in packet.payload.values())
    back = packet_in(over_flower(content))
    assert back == packet
    assert same(forge.decoded(back), forge.decoded(packet))


def test_a_message_without_a_packet_is_refused() -> None:
    packet = example_packet()
    for content in (
        RecordDict({}),
        RecordDict({PACKET: ConfigRecord({"data": "text"})}),
        RecordDict({PACKET: ArrayRecord()}),
        RecordDict({"other": sealed(packet)}),
    ):
        with pytest.raises(PacketError, match="packet: no packet in this message"):
            packet_in(content)
    forged = ConfigRecord({**sealed(packet), "source": "n9"})
    with pytest.raises(PacketError, match="source = n0: not where the message says"):
        packet_in(RecordDict({PACKET: forged}))


def test_equality_sees_every_field_and_every_bit() -> None:
    packet = example_packet()
    assert packet == example_packet()
    others = {
        "packet_id": "0" * 32, "model_id": "other", "version": "0" * 64, "parent": "0" * 64,
        "source": "n9", "destination": "n9", "ttl": 9, "hop": 9, "visited": ("n9",), "gate": 0.5,
        "seen": (), "updated": {}, "samples": 9, "walker": "w9", "below_gate": True,
        "tour": "0" * 32, "features": "0" * 64, "included": "01", "passed": "01", "toured": "01",
            "meeting": "n9",
        "task": "0" * 8, "area": "cell-9",
    }  # fmt: skip
    fixed = {"protocol", "kind", "base", "changed", "codec", "shapes", "payload"}
    assert others.keys() | fixed == {part.name for part in dataclasses.fields(Packet)}
    for name, value in others.items():
        assert dataclasses.replace(packet, **{name: value}) != packet  # type: ignore[arg-type]
    turned = dict(packet.payload) | {"head.bias": packet.payload["head.bias"].clone()}
    turned["head.bias"][2] = -0.0
    assert turned["head.bias"].tolist() == packet.payload["head.bias"].tolist()
    assert dataclasses.replace(packet, payload=turned) != packet


def test_what_has_its_default_takes_no_byte() -> None:
    bare = {name: value for name, value in forge.HEADER.items() if name not in OPTIONAL}
    short, _ = pack(forge.model(), **bare)
    assert OPTIONAL.isdisjoint(json.loads(short.header_json()))
    assert Packet.from_bytes(short.to_bytes()) == short


@every_packet
def test_the_tensors_stand_as_in_a_safetensors_file(packet: Packet) -> None:
    _, body = forge.parts(packet.to_bytes())
    saved = safetensors.torch.save(dict(packet.payload))
    assert body == saved[8 + int.from_bytes(saved[:8], "little") :]


@pytest.mark.parametrize("codec", CODECS)
def test_a_full_packet_brings_what_its_codec_keeps(codec: str) -> None:
    packet = forge.full(codec)
    shapes = {name: tuple(tensor.shape) for name, tensor in forge.model().items()}
    brought = packet.decoded()
    assert same(brought, decode(encode(forge.model(), codec)[0], codec, shapes))
    assert version_digest(brought) == packet.version
    assert same(brought, forge.model()) == (codec == "fp32")


def test_a_delta_of_nothing_carries_nothing() -> None:
    packet = forge.unchanged()
    assert packet.payload == {}
    assert packet.version == packet.base
    assert same(forge.decoded(packet), forge.model())


def test_a_delta_alone_is_not_decoded() -> None:
    with pytest.raises(PacketError, match=r"^base = .*a delta needs"):
        forge.delta("bf16").decoded()


@pytest.mark.parametrize("make", [forge.full, forge.delta])
@pytest.mark.parametrize("codec", CODECS)
def test_a_payload_that_is_not_the_version_is_refused(
    make: Callable[[str], Packet], codec: str
) -> None:
    packet = make(codec)
    lie = dataclasses.replace(packet, version="0" * 64)
    with pytest.raises(PacketError, match=r"^version = 000000000000"):
        forge.decoded(Packet.from_bytes(lie.to_bytes()))
    header, body = forge.parts(packet.to_bytes())
    altered = Packet.from_bytes(forge.sealed(header, bytes([body[0] ^ 1]) + body[1:]))
    with pytest.raises(PacketError, match=r"^version"):
        forge.decoded(altered)


def test_the_header_is_readable_json() -> None:
    header = json.loads(forge.parts(example_packet().to_bytes())[0])
    assert header["seen"] == [3.0, 0.0, 5.0]
    assert header["shapes"]["head.weight"] == [3, 4]


def test_a_gate_or_count_given_as_whole_number_is_a_float() -> None:
    packet = dataclasses.replace(example_packet(), gate=1, seen=[2, 3])  # type: ignore[arg-type]
    assert (packet.gate, packet.seen) == (1.0, (2.0, 3.0))
    assert Packet.from_bytes(packet.to_bytes()) == packet
