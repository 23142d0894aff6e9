"""Flower records that are not exactly a packet are refused with the field's name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from mfd_flower.packets import Packet, PacketError, example_packet
from tests.packets.memory import python_peak


def forged_record(packet: Packet, **header: Any) -> RecordDict:
    content = packet.to_record()
    for name, value in header.items():
        content.config_records["header"][name] = value
    return content


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl", -1), ("ttl", True), ("ttl", 1.0), ("hop", b"1"), ("visited", ["n0"] * 65),
        ("visited", [1]), ("seen", [math.nan]), ("seen", [True]), ("gate", math.inf),
        ("source", ""), ("destination", b"n1"), ("shapes", "{}"), ("shapes", "{"), ("shapes", 1),
        ("shapes", '{"gain":[],"gain":[]}'), ("updated", "[]"),
        ("updated", '{"head.bias": 2}'), ("updated", '{"gain":1}'),
        ("shapes", '{"gain":NaN}'), ("shapes", '{"gain":1e999}'), ("updated", '{"gain":Infinity}'),
        ("shapes", '{"gain":' + "[" * 900 + "]" * 900 + "}"),
        ("version", "x"), ("extra", 1), ("codec", "bf16"), ("kind", "delta"),
    ],
)  # fmt: skip
def test_a_wrong_record_field_is_refused_by_name(name: str, value: Any) -> None:
    places = {"codec": "payload", "kind": "base", "extra": r"header\.extra"}
    with pytest.raises(PacketError, match=places.get(name, name)):
        Packet.from_record(forged_record(example_packet(), **{name: value}))


@pytest.mark.parametrize("name", ["ttl", "source", "shapes", "updated", "version", "gate"])
def test_a_missing_record_field_is_refused_by_name(name: str) -> None:
    content = example_packet().to_record()
    del content.config_records["header"][name]
    with pytest.raises(PacketError, match=name):
        Packet.from_record(content)


def test_missing_records_are_refused() -> None:
    content = example_packet().to_record()
    with pytest.raises(PacketError, match="header"):
        Packet.from_record(RecordDict({"arrays": content["arrays"]}))
    with pytest.raises(PacketError, match="arrays"):
        Packet.from_record(RecordDict({"header": content["header"]}))
    swapped = RecordDict({"header": ArrayRecord(), "arrays": ConfigRecord()})
    with pytest.raises(PacketError, match="header"):
        Packet.from_record(swapped)
    with pytest.raises(PacketError, match="at most 10 are accepted"):
        Packet.from_record(content, max_bytes=10)


def test_json_in_a_record_is_bounded() -> None:
    content = forged_record(example_packet(), updated=" " * (1 << 22) + "{}")
    with pytest.raises(
        PacketError, match="updated = str of length 4194306: at most 4194304 characters"
    ):
        Packet.from_record(content)


def test_other_records_are_left_alone() -> None:
    content = example_packet().to_record()
    content["optimizer"] = ArrayRecord()
    assert Packet.from_record(content) == example_packet()


def npy_lies() -> dict[str, Array]:
    good = example_packet().to_record().array_records["arrays"]["head.bias"]
    data = good.data

    def replaced(old: bytes, new: bytes) -> Array:
        assert data.count(old) == 1
        altered = data.replace(old, new)
        spare = len(altered) - len(data)
        altered = altered.replace(b" " * spare + b"\n", b"\n", 1) if spare > 0 else altered
        return Array("float32", (3,), "numpy.ndarray", altered)

    return {
        "huge npy shape": replaced(b"(3,)", b"(1099511627776,)"),
        "other npy shape": replaced(b"(3,)", b"(1,)"),
        "object dtype": replaced(b"<f4", b"|O8"),
        "big endian": replaced(b"<f4", b">f4"),
        "fortran": replaced(b"False", b"True "),
        "call": replaced(b"(3,)", b"f(3)"),
        "shorter": Array("float32", (3,), "numpy.ndarray", data[:-1]),
        "longer": Array("float32", (3,), "numpy.ndarray", data + b"\0"),
        "empty": Array("float32", (3,), "numpy.ndarray", b""),
        "magic": Array("float32", (3,), "numpy.ndarray", b"X" + data[1:]),
        "length": Array("float32", (3,), "numpy.ndarray", data[:8] + b"\xff\xff" + data[10:]),
        "claimed shape": Array("float32", (2**40,), "numpy.ndarray", data),
        "claimed dtype": Array("float64", (3,), "numpy.ndarray", data),
        "claimed kind": Array("float32", (3,), "pickle", data),
    }


@pytest.mark.parametrize("lie", npy_lies().values(), ids=npy_lies())
def test_an_array_that_lies_is_refused_without_reading_it(lie: Array) -> None:
    content = example_packet().to_record()
    content.array_records["arrays"]["head.bias"] = lie

    def work() -> None:
        with pytest.raises(PacketError, match=r"payload head\.bias"):
            Packet.from_record(content)

    work()
    assert python_peak(work) < 100_000


def test_an_array_too_many_is_refused() -> None:
    for name in ("foreign", "head.bias:scale"):
        content = example_packet().to_record()
        arrays = content.array_records["arrays"]
        arrays[name] = arrays["head.bias"]
        with pytest.raises(PacketError, match=f"payload '{name}'"):
            Packet.from_record(content)


def test_array_names_are_those_of_the_shapes() -> None:
    for name in ("head.weight", "foreign"):
        content = example_packet().to_record()
        arrays = content.array_records["arrays"]
        moved = arrays.pop("head.bias")
        if name == "foreign":
            arrays[name] = moved
        with pytest.raises(PacketError, match="payload"):
            Packet.from_record(content)
