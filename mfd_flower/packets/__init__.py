"""AI packets: header, payload codecs, versions. What a node reads is refused or exactly right."""

from mfd_flower.packets.codecs import CODECS, decode, encode
from mfd_flower.packets.digest import leaf_digests, merkle_root, version_digest
from mfd_flower.packets.fragments import Reassembly, fragments, sent_bytes
from mfd_flower.packets.frame import PacketError
from mfd_flower.packets.header import Header
from mfd_flower.packets.ipv6 import Datagram, address_of
from mfd_flower.packets.packet import Packet, header_of
from mfd_flower.packets.packing import (
    changed_since,
    delta,
    example_packet,
    pack,
    repack,
    restored,
)

__all__ = [
    "CODECS",
    "Datagram",
    "Header",
    "Packet",
    "PacketError",
    "Reassembly",
    "address_of",
    "changed_since",
    "decode",
    "delta",
    "encode",
    "example_packet",
    "fragments",
    "header_of",
    "leaf_digests",
    "merkle_root",
    "pack",
    "repack",
    "restored",
    "sent_bytes",
    "version_digest",
]
