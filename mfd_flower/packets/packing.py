"""Make a packet from tunables, cut it down to what a receiver lacks, and make it full again.

The receiver of a delta names the version that it holds and the number of the local update that made
it; the header says at which update each tunable last changed. Tunables travel as they were encoded
once, so a lossy codec loses nothing a second time, and what is restored is the full packet bit for
bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mfd_flower.packets.codecs import decode, encode, layouts
from mfd_flower.packets.digest import version_digest
from mfd_flower.packets.frame import PacketError
from mfd_flower.packets.members import bits_text
from mfd_flower.packets.packet import Packet


def pack(
    tensors: Mapping[str, Tensor],
    *,
    codec: str = "fp32",
    residual: Mapping[str, Tensor] | None = None,
    **header: Any,
) -> tuple[Packet, dict[str, Tensor]]:
    """Make the full packet that brings `tensors` to a receiver.

    `tensors` is every tunable, as `codecs.encode` takes them; `header` has the fields of `Header`
    that do not follow from them. The packet's version is that of what the receiver decodes, not of
    `tensors`, if the codec is lossy. Returns what the encoding dropped as well.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    encoded, left = encode(tensors, codec, residual)
    decoded = decode(encoded, codec, shapes)
    version = version_digest(decoded)
    packet = Packet(**header, version=version, codec=codec, shapes=shapes, payload=encoded)
    return packet.knowing(decoded), left


def repack(
    arrived: Packet,
    changes: Mapping[str, Tensor],
    residual: Mapping[str, Tensor] | None = None,
    **header: Any,
) -> tuple[Packet, dict[str, Tensor]]:
    """Make the full packet that an arrived one becomes when some of its tunables change.

    What did not change stays encoded as it came, so a lossy codec loses nothing a second time.
    `arrived` is a full packet; header fields that are not given stay, version and parent follow.
    Returns what the encoding dropped as well.
    """
    encoded, left = encode(changes, arrived.codec, residual)
    payload = {**arrived.payload, **encoded}
    # What did not change was decoded when it came.
    shapes = {name: tuple(tensor.shape) for name, tensor in changes.items()}
    decoded = {**arrived.decoded(), **decode(encoded, arrived.codec, shapes)}
    header |= {"version": version_digest(decoded), "parent": arrived.version}
    header["shapes"] = {**arrived.shapes, **shapes}
    return replace(arrived, **header, payload=payload).knowing(decoded), left


def delta(packet: Packet, base: str, changed: Collection[str]) -> Packet:
    """Return the packet with the tunables in `changed` alone, onto version `base`.

    `changed` has every tunable that differs from `base`, which the receiver holds; more do no harm.
    `PacketError` if `packet` is a delta itself.
    """
    if packet.kind != "full":
        raise PacketError("kind = 'delta': only a full packet can be cut down to a delta")
    travelling = layouts(changed, packet.shapes, packet.codec)
    return replace(
        packet,
        kind="delta",
        base=base,
        changed=bits_text(i for i, name in enumerate(packet.shapes) if name in changed),
        payload={key: packet.payload[key] for key in travelling},
    )


def changed_since(packet: Packet, update: int) -> set[str]:
    """Return the tunables that changed after local update number `update` of the walk."""
    return {name for name, when in packet.updated.items() if when > update}


def restored(packet: Packet, held: Packet | None) -> Packet:
    """Return the full packet that a delta and the version held here make.

    A full packet is returned as it is. The version is compared when the result is decoded.
    `PacketError` if a delta builds on another version than that of `held`.
    """
    if packet.kind == "full":
        return packet
    if held is None or held.version != packet.base:
        found = f"{held.version[:12]}..." if held else "nothing"
        raise PacketError(f"base = {packet.base[:12]}...: {found} is held here")
    if held.codec != packet.codec:
        raise PacketError(f"codec = {packet.codec}: the version held here came as {held.codec}")
    payload = {**held.payload, **packet.payload}
    return replace(packet, kind="full", base="", changed="", payload=payload)


def example_packet() -> Packet:
    """Return a small valid packet: three tunables on their way from n0 to n1."""
    tensors = {
        "head.weight": torch.arange(-6, 6).reshape(3, 4) / 8,
        "head.bias": torch.tensor([0.5, -0.25, 0.0]),
        "prompts.0": torch.arange(6).reshape(1, 2, 3) / 4,
    }
    packet, _ = pack(
        tensors,
        packet_id="0123456789abcdef0123456789abcdef",
        model_id="fm-tiny",
        source="n0",
        destination="n1",
        ttl=8,
        hop=2,
        visited=("n2", "n0"),
        gate=0.25,
        seen=(3.0, 0.0, 5.0),
        updated={"head.weight": 1, "head.bias": 2},
        samples=8,
    )
    return packet
