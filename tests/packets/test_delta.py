"""A delta and the version that the receiver holds make the full packet, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.packets import (
    CODECS,
    Packet,
    PacketError,
    changed_since,
    delta,
    example_packet,
    pack,
    repack,
    restored,
)

NAMES = ("head.bias", "head.weight", "prompts.0", "prompts.1")
SHAPES = {"head.bias": (3,), "head.weight": (3, 5), "prompts.0": (2, 4), "prompts.1": (2, 4)}


def first(codec: str) -> Packet:
    generator = torch.Generator().manual_seed(7)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    packet, _ = pack(
        tensors,
        packet_id="0" * 32,
        model_id="m",
        source="n0",
        destination="n1",
        ttl=9,
        hop=1,
        codec=codec,
    )
    return packet


def visited(packet: Packet, names: set[str]) -> Packet:
    """One visit that changes the tunables in `names`."""
    tensors = packet.decoded()
    changes = {name: tensors[name] * 1.25 + 0.1 for name in names}
    onward, _ = repack(
        packet,
        changes,
        updated={**packet.updated, **dict.fromkeys(names, packet.hop)},
        hop=packet.hop + 1,
    )
    return onward


@pytest.mark.parametrize("codec", CODECS)
@given(
    visits=st.lists(st.sets(st.sampled_from(NAMES)), min_size=1, max_size=6), back=st.integers(0, 6)
)
def test_a_delta_onto_any_earlier_version_restores_the_packet(
    codec: str, visits: list[set[str]], back: int
) -> None:
    versions = [first(codec)]
    for names in visits:
        versions.append(visited(versions[-1], names))
    held, newest = versions[max(0, len(versions) - 1 - back)], versions[-1]
    sent = delta(newest, held.version, changed_since(newest, held.hop - 1))
    arrived = Packet.from_bytes(sent.to_bytes())
    assert restored(arrived, held) == newest
    tensors = restored(arrived, held).decoded()
    for name, tensor in newest.decoded().items():
        assert torch.equal(tensors[name], tensor)
    # Only what a visit in between touched has travelled.
    touched = set().union(*visits[held.hop - 1 :]) if held.hop <= len(visits) else set()
    assert {key.removesuffix(":scale") for key in arrived.payload} == touched


def test_a_delta_onto_another_version_is_refused_by_name() -> None:
    one = first("fp32")
    two = visited(one, {"prompts.0"})
    three = visited(two, {"head.bias"})
    with pytest.raises(PacketError, match=r"base = .*is held here"):
        restored(delta(three, two.version, changed_since(three, 1)), one)
    with pytest.raises(PacketError, match="nothing is held here"):
        restored(delta(three, two.version, ()), None)


def test_a_delta_that_lacks_a_change_does_not_decode_to_its_version() -> None:
    one = first("fp32")
    two = visited(visited(one, {"prompts.0"}), {"head.bias"})
    with pytest.raises(PacketError, match="version"):
        restored(delta(two, one.version, {"head.bias"}), one).decoded()


def test_a_delta_is_not_cut_down_again() -> None:
    packet = example_packet()
    with pytest.raises(PacketError, match="only a full packet"):
        delta(delta(packet, packet.version, ()), packet.version, ())


def test_what_did_not_change_is_not_encoded_a_second_time() -> None:
    """int8 of int8 may differ in the last bit: unchanged tunables keep their encoded form."""
    packet = first("int8")
    onward = visited(visited(packet, {"head.bias"}), {"head.bias"})
    for key in ("head.weight", "head.weight:scale", "prompts.0", "prompts.0:scale"):
        assert torch.equal(onward.payload[key], packet.payload[key])
