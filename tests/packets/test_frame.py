"""The tensors' bytes in a packet's text are counted, and never more than is there."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.accounting.wire import measure
from mfd_flower.packets import Packet
from mfd_flower.packets.frame import MAGIC, PREFIX, SEAL_BYTES, payload_size
from tests.packets import forge

PACKETS = forge.all_packets()
TEXT = PACKETS[0].to_bytes()
SIZES = st.integers(0, 2**64 - 1) | st.integers(0, 2 * len(TEXT))


def tensor_bytes(packet: Packet) -> int:
    return sum(tensor.nbytes for tensor in packet.payload.values())


@pytest.mark.parametrize("packet", PACKETS, ids=lambda p: f"{p.kind}-{p.codec}-{len(p.payload)}")
def test_the_tensors_of_a_packet_are_counted_and_nothing_beside_them(packet: Packet) -> None:
    data = packet.to_bytes()
    assert payload_size(data) == tensor_bytes(packet)
    beside = ConfigRecord({"lines": data[1:], "hop": 3})
    content = RecordDict({"packet": ConfigRecord({"data": data}), "beside": beside})
    assert measure(content).payload == tensor_bytes(packet)


@given(st.integers(0, len(TEXT)))
def test_of_a_packet_that_was_cut_off_what_is_left_counts(length: int) -> None:
    tensors = tensor_bytes(PACKETS[0])
    begin = len(TEXT) - SEAL_BYTES - tensors
    assert payload_size(TEXT[:length]) == min(tensors, max(0, length - begin))


@given(size=SIZES, header=st.integers(0, 2**32 - 1) | st.integers(0, len(TEXT)))
def test_declared_lengths_are_not_believed(size: int, header: int) -> None:
    text = bytearray(TEXT)
    PREFIX.pack_into(text, 0, MAGIC, size, header)
    assert 0 <= payload_size(bytes(text)) <= len(TEXT) - PREFIX.size


@given(st.binary(max_size=100), st.booleans())
def test_anything_can_be_asked(rest: bytes, as_packet: bool) -> None:
    data = (MAGIC if as_packet else b"") + rest
    assert 0 <= payload_size(data) <= (max(0, len(data) - PREFIX.size) if as_packet else 0)
