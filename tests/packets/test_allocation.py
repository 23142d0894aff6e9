"""No memory is spent on what a packet claims before the claim is compared with what is there."""

from __future__ import annotations

import json
import struct
from functools import partial

import pytest
import torch

from mfd_flower.packets import Packet, PacketError, pack
from tests.packets import forge
from tests.packets.memory import python_peak, torch_allocated

GOOD = forge.full("fp32").to_bytes()


def refused(data: bytes) -> None:
    with pytest.raises(PacketError):
        Packet.from_bytes(data)


def test_a_claimed_terabyte_costs_nothing() -> None:
    huge = [2**19, 2**19]
    shapes = json.loads(forge.parts(GOOD)[0])["shapes"] | {"prompts": huge}
    lies = [
        forge.with_field(GOOD, "shapes", shapes),
        GOOD[:8] + struct.pack("<QI", 2**40, 2**31) + GOOD[20:],
    ]
    for lie in lies:
        refused(lie)
        assert python_peak(partial(refused, lie)) < 100_000
        assert torch_allocated(partial(refused, lie)) < 1000


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_reading_takes_one_copy_of_the_payload(codec: str) -> None:
    packet, _ = pack({"w": torch.randn(500, 2000)}, codec=codec, **forge.HEADER | {"updated": {}})
    data = packet.to_bytes()
    header, body = forge.parts(data)
    swapped = forge.sealed(header, b"\xff" * len(body))
    for work in (lambda: Packet.from_bytes(data), lambda: refused(swapped)):
        peak = python_peak(work) + torch_allocated(work)
        assert 0.9 * len(data) < peak < 1.1 * len(data) + 100_000
    altered = data[:-1] + bytes([data[-1] ^ 1])
    assert python_peak(lambda: refused(altered)) < 100_000


def test_a_header_of_junk_is_bounded() -> None:
    """JSON grows on parsing; what passes the counts in front of it stays below 16 MB."""
    _, body = forge.parts(GOOD)
    for value, count in (
        (b'"x",', 131_000),
        (b"{},", 32_000),
        (b"[],", 1_000_000),
        (b"9.5,", 9**6),
    ):
        junk = b'{"a":[' + value * count + b"0]}"
        data = forge.sealed(junk, body)
        assert python_peak(partial(refused, data)) < 16e6
