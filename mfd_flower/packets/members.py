"""Sets as bitmaps in hexadecimal: bit i, counted from the lowest of the first byte on, is number i.

A set has one text: without bytes of zeros at its end. Number i of nodes is ``ni``.
"""

from __future__ import annotations

from collections.abc import Iterable

from mfd_flower.packets.frame import PacketError

MOST_MEMBERS = 4_096
"""That a bitmap in a header has room for."""


def bitmap(addresses: Iterable[str]) -> str:
    """Return the bitmap of addresses ``n0``, ``n1`` ..."""
    return bits_text(int(address.removeprefix("n")) for address in addresses)


def members_in(text: str, nodes: int, name: str = "included") -> frozenset[str]:
    """Return the addresses in a header's bitmap; `PacketError` if one is none of so many nodes."""
    return frozenset(f"n{number}" for number in numbers_in(text, nodes, name, "nodes"))


def bits_text(numbers: Iterable[int]) -> str:
    """Return the bitmap of a set of numbers."""
    bits = sum(1 << number for number in set(numbers))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little").hex()


def numbers_in(text: str, size: int, name: str, what: str) -> list[int]:
    """Return the numbers in a bitmap, ascending; `PacketError` if one is not below `size`."""
    bits = int.from_bytes(bytes.fromhex(text), "little")
    if text.endswith("00") or bits.bit_length() > size:
        raise PacketError(f"{name} = {text[:40]}: not a bitmap of {size} {what}")
    return [number for number in range(bits.bit_length()) if bits >> number & 1]
