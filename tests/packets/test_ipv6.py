"""AI packets as IPv6 datagrams: forwarded unopened, cut to an MTU, put together in any order."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.packets import (
    Datagram,
    Packet,
    PacketError,
    Reassembly,
    address_of,
    example_packet,
    fragments,
    pack,
    sent_bytes,
)

A, B, C = (address_of(name) for name in ("n0", "n1", "n2"))
ADDRESSES = st.integers(0, 2**128 - 1).map(IPv6Address)
DATAGRAMS = st.lists(ADDRESSES, min_size=1, max_size=9).flatmap(
    lambda segments: st.builds(
        Datagram,
        source=ADDRESSES,
        segments=st.just(tuple(segments)),
        segments_left=st.integers(0, len(segments) - 1),
        hop_limit=st.integers(0, 255),
        flow=st.integers(0, 2**20 - 1),
        data=st.binary(max_size=200),
    )
)


def large_packet(values: int = 5000) -> Packet:
    packet, _ = pack(
        {"head.weight": torch.arange(values).reshape(1, -1) / 8},
        packet_id="00112233445566778899aabbccddeeff",
        model_id="x", source="n0", destination="n2", ttl=3, hop=1,
    )  # fmt: skip
    return packet


@given(DATAGRAMS)
def test_a_datagram_is_read_as_it_was_written(datagram: Datagram) -> None:
    assert Datagram.from_bytes(datagram.to_bytes()) == datagram


def test_the_bytes_are_those_of_the_rfcs() -> None:
    """Field by field as in RFC 8200, section 3, and RFC 8754, section 2."""
    sent = Datagram(
        source=A, segments=(B, C), segments_left=1, hop_limit=7, flow=0xABCDE, data=b"xyz"
    ).to_bytes()
    assert sent[:8].hex() == "600abcde" + "002b" + "2b" + "07"
    assert sent[8:40] == A.packed + B.packed
    assert sent[40:48].hex() == "fd" + "04" + "04" + "01" + "01" + "00" + "0000"
    assert sent[48:80] == C.packed + B.packed
    assert sent[80:] == b"xyz"


def test_nodes_on_the_way_forward_it_unopened_to_the_receiver() -> None:
    path = [B, C, A]
    (first, *_) = fragments(example_packet(), A, path)
    at, links = first, 0
    while at.segments_left:
        assert at.destination == path[links]
        at, links = Datagram.from_bytes(at.forwarded().to_bytes()), links + 1
        assert at.data == first.data
    assert (at.destination, links, at.hop_limit) == (A, 2, 1)
    with pytest.raises(PacketError, match="segments_left = 0: this is its receiver"):
        at.forwarded()
    with pytest.raises(PacketError, match="hop_limit = 1: no link is left"):
        replace(first, hop_limit=1).forwarded()


@settings(max_examples=30)
@given(st.integers(1280, 9000), st.integers(1, 6), st.randoms())
def test_a_packet_comes_whole_out_of_its_fragments_in_any_order_and_twice(
    mtu_bytes: int, segments: int, random: Any
) -> None:
    packet, path = large_packet(), [B] * segments
    datagrams = [each.to_bytes() for each in fragments(packet, A, path, mtu_bytes)]
    assert max(map(len, datagrams)) <= mtu_bytes
    assert sum(map(len, datagrams)) == sent_bytes(len(packet.to_bytes()), mtu_bytes, segments)
    shuffled = datagrams + datagrams[:2]
    random.shuffle(shuffled)
    whole = Reassembly()
    found = [whole.add(Datagram.from_bytes(datagram)) for datagram in shuffled]
    assert [each for each in found if each is not None] == [packet]
    assert whole.missing() == []


def test_what_is_missing_is_named_and_sent_again() -> None:
    packet = large_packet()
    sent = list(fragments(packet, A, [B]))
    whole = Reassembly()
    assert whole.missing() == []
    for place, datagram in enumerate(sent):
        if place not in (2, 3, len(sent) - 1):
            assert whole.add(datagram) is None
    room = len(sent[0].data) - 24
    size = len(packet.to_bytes())
    assert whole.missing() == [(2 * room, 4 * room), ((len(sent) - 1) * room, size)]
    made = [whole.add(sent[place]) for place in (2, 3, len(sent) - 1)]
    assert made == [None, None, packet]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: replace(d, data=d.data[:24]), "fragment: 24 bytes hold nothing of a packet"),
        (lambda d: replace(d, data=b"\1" + d.data[1:]), "fragment: of packet 01112233.*not this"),
        (lambda d: replace(d, data=d.data[:16] + b"\xff" * 4 + d.data[20:]), "size = 4294967295:"),
        (lambda d: replace(d, data=d.data[:20] + b"\0\0\xff\xff" + d.data[24:]), "start = 65535:"),
        (lambda d: replace(d, data=d.data[:-1] + b"?"), "start = 0: bytes from 0 on are there"),
        (
            lambda d: replace(d, data=d.data[:20] + b"\0\0\0\5" + d.data[24:]),
            "start = 5: bytes from 0 on are there already",
        ),
    ],
)
def test_a_bad_fragment_is_refused_and_harms_none_of_the_others(change: Any, line: str) -> None:
    packet = large_packet()
    first, *others = fragments(packet, A, [B])
    whole = Reassembly()
    whole.add(first)
    with pytest.raises(PacketError, match=line):
        whole.add(change(first))
    assert [whole.add(each) for each in others][-1] == packet


@pytest.mark.parametrize(
    ("at", "byte", "line"),
    [
        (0, 0x45, "version = 4: 6 is accepted"),
        (0, 0x6F, "traffic class = 240: 0 is accepted"),
        (5, 9, "length = "),
        (6, 17, "next header = 17: 43 is accepted"),
        (40, 6, "next header behind segments = 6: 253 is accepted"),
        (41, 200, "length of the routing header = 200: 4 is accepted"),
        (42, 0, "routing type = 0: 4 is accepted"),
        (43, 9, "segments_left = 9: 0 to 1 are accepted"),
        (39, 1, "destination = "),
    ],
)
def test_what_is_no_such_datagram_is_refused_by_the_field(at: int, byte: int, line: str) -> None:
    sent = Datagram(source=A, segments=(B, C), segments_left=1, hop_limit=7, flow=1, data=b"x")
    data = bytearray(sent.to_bytes())
    data[at] = byte
    with pytest.raises(PacketError) as refused:
        Datagram.from_bytes(bytes(data))
    assert str(refused.value).startswith(line)


@given(st.binary(max_size=120))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(PacketError):
        Datagram.from_bytes(data)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"path": []}, "segments = 0: 1 to 127 are accepted"),
        ({"path": [B] * 128}, "segments = "),
        ({"path": [B], "mtu_bytes": 1279}, "mtu_bytes = 1279: 1280 to 65535 are accepted"),
        ({"path": [B] * 90, "mtu_bytes": 1280}, "segments = 90: with an MTU of 1280 fewer"),
    ],
)
def test_what_no_datagram_has_room_for_is_refused(how: dict[str, Any], line: str) -> None:
    with pytest.raises(PacketError) as refused:
        list(fragments(example_packet(), A, **how))
    assert str(refused.value).startswith(line)


def test_addresses_are_stable_and_apart() -> None:
    names = [f"n{number}" for number in range(2000)]
    assert len({address_of(name) for name in names}) == 2000
    assert str(address_of("n0")).startswith("fd4d:4644:")
    assert address_of("n0") == address_of("n0")


def test_the_example_of_the_docs_runs_as_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "packet.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "packet.md", "exec"), {})
