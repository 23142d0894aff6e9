"""Delta packets: only what changed since the version that the receiver announced (fewer bytes).

The receiver names the version that it holds and the number of the local update that made it; the
header says at which update each tunable last changed. Tunables travel as they were encoded once, so
a lossy codec loses nothing a second time, and what is restored is the full packet bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mfd_flower.packets.codecs import layouts
from mfd_flower.packets.errors import PacketError
from mfd_flower.packets.packet import Packet


def delta(packet: Packet, base: str, changed: Collection[str]) -> Packet:
    """Return the packet with the tunables in `changed` alone, onto version `base`.

    `changed` has every tunable that differs from `base`, which the receiver holds; more do no harm.
    `PacketError` if `packet` is a delta itself.
    """
    if packet.kind != "full":
        raise PacketError("kind = 'delta': only a full packet can be cut down to a delta")
    travelling = layouts(changed, packet.shapes, packet.codec)
    return replace(
        packet, kind="delta", base=base, payload={k: packet.payload[k] for k in travelling}
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
    return replace(packet, kind="full", base="", payload={**held.payload, **packet.payload})
