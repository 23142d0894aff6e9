"""What an AI packet is as IPv6 datagrams: bytes on each link, and how fast nodes forward it.

    python experiments/bench/datagrams.py

A packet of fm-tiny's prompts and head goes over 1 to 8 segments, in fp32 and int8, cut to the MTU
of Ethernet, of IPv6's least and of jumbo frames. Every node on the way forwards each datagram
unopened, from bytes to bytes, and the receiver puts the packet together.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from mfd_flower.config import RunConfig
from mfd_flower.node import initial_tunables
from mfd_flower.packets import Datagram, Packet, Reassembly, address_of, fragments, pack, sent_bytes

MTU_BYTES = (1280, 1500, 9000)


def packet_of(codec: str) -> Packet:
    """Return a packet of prompts and head."""
    run = RunConfig.from_tables({"train": {"accelerator": "cpu"}})
    packet, _ = pack(
        initial_tunables(run), packet_id="0" * 32, model_id="fm-tiny", source="n0",
        destination="n9", ttl=3, hop=1, codec=codec,
    )  # fmt: skip
    return packet


def carried(packet: Packet, segments: int, mtu_bytes: int) -> tuple[int, float]:
    """Send a packet over so many segments; returns bytes on each link, and seconds."""
    path = [address_of(f"n{number}") for number in range(1, segments + 1)]
    began = time.perf_counter()
    on_the_way = [each.to_bytes() for each in fragments(packet, address_of("n0"), path, mtu_bytes)]
    size_bytes = sum(map(len, on_the_way))
    for _ in range(segments - 1):
        on_the_way = [Datagram.from_bytes(each).forwarded().to_bytes() for each in on_the_way]
    whole = Reassembly()
    *_, arrived = (whole.add(Datagram.from_bytes(each)) for each in on_the_way)
    seconds = time.perf_counter() - began
    assert arrived == packet
    assert size_bytes == sent_bytes(len(packet.to_bytes()), mtu_bytes, segments)
    return size_bytes, seconds


def main() -> None:
    """Print a line a packet, path and MTU."""
    parser = argparse.ArgumentParser(description="AI packets as IPv6 datagrams.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    chosen = parser.parse_args()
    rows = []
    for codec in ("fp32", "int8"):
        packet = packet_of(codec)
        for segments in (1, 2, 4, 8):
            for mtu_bytes in MTU_BYTES:
                found = [carried(packet, segments, mtu_bytes) for _ in range(chosen.repeats)]
                size_bytes, seconds = min(found)
                packet_bytes = len(packet.to_bytes())
                rows.append(
                    {
                        **{"codec": codec, "segments": segments, "mtu_bytes": mtu_bytes},
                        **{"packet_bytes": packet_bytes, "link_bytes": size_bytes},
                        "milliseconds": 1000 * seconds,
                    }
                )
                more = size_bytes / packet_bytes - 1
                print(
                    f"{codec} {segments} segments, MTU {mtu_bytes}: {size_bytes} bytes a link,",
                    end=" ",
                )
                print(f"{100 * more:.1f} % more, {1000 * seconds:.2f} ms")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
