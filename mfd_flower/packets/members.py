"""Sets of nodes as bitmaps in hexadecimal: bit i, from the lowest of the first byte on, is ``ni``.

A set has one text: without bytes of zeros at its end.
"""

from __future__ import annotations

from collections.abc import Iterable

from mfd_flower.packets.frame import PacketError

MOST_MEMBERS = 4_096
"""That a bitmap in a header has room for."""


def bitmap(addresses: Iterable[str]) -> str:
    """Return the bitmap of addresses ``n0``, ``n1`` ..."""
    bits = sum(1 << int(address.removeprefix("n")) for address in set(addresses))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little").hex()


def members_in(text: str, nodes: int, name: str = "included") -> frozenset[str]:
    """Return the addresses in a header's bitmap; `PacketError` if one is none of so many nodes."""
    bits = int.from_bytes(bytes.fromhex(text), "little")
    if text.endswith("00") or bits.bit_length() > nodes:
        raise PacketError(f"{name} = {text[:40]}: not a bitmap of {nodes} nodes")
    return frozenset(f"n{i}" for i in range(bits.bit_length()) if bits >> i & 1)
