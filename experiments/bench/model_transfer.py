"""Which payloads of a walk could be moved over which links within a second, and what 3GPP asks.

    python experiments/bench/model_transfer.py

Links of 200 nodes in a street canyon (`umi`, 600 m x 600 m, 20 MHz a cell, 10 MHz between nodes),
each alone on the air, five seeds: up and down over the serving cell, and to each neighbour. What
travels: packets as they are serialised, of fm-tiny (96 wide, 6 deep) and of a ViT of 22 million
parameters, and models of 80 and 138 MB as in 3GPP TS 22.261, section 7.10. Latency 10 ms.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mfd_flower.config import NetworkConfig, RunConfig
from mfd_flower.network import WirelessOptions, WirelessWorld
from mfd_flower.network.kpis import REQUIREMENTS, transfer_s
from mfd_flower.network.world import EDGE, Transfer
from mfd_flower.node import initial_tunables
from mfd_flower.packets import pack

NODES, LATENCY_S = 200, 0.01
MODELS: dict[str, dict[str, Any]] = {
    "fm-tiny, head": {"tune": "head"},
    "fm-tiny, 8 prompts": {"tune": "prompts", "prompts": 8},
    "fm-tiny, all": {"tune": "full"},
}
VIT_S_PARAMETERS = 22e6
SIZES = {
    "ViT-S, 10 deep prompts, fp32": 4 * (12 * 10 * 384 + 384 * 100),
    "ViT-S, all, fp32": 4 * VIT_S_PARAMETERS,
    "80 MB": 80e6,
    "138 MB": 138e6,
}


def packet_bytes(model: dict[str, Any], codec: str) -> int:
    """Return what a packet of a model's tunables takes."""
    run = RunConfig.from_tables({"model": model, "train": {"accelerator": "cpu"}})
    header: dict[str, Any] = {
        "packet_id": "0" * 32,
        "model_id": "fm-tiny",
        "source": "n0",
        "destination": "n1",
    }
    packet, _ = pack(initial_tunables(run), codec=codec, ttl=9, hop=9, **header)
    return len(packet.to_bytes())


def link_rates(seeds: int) -> dict[str, np.ndarray]:
    """Return rates of all links of a kind, in bit/s."""
    found: dict[str, list[float]] = {"up": [], "down": [], "d2d": []}
    for seed in range(seeds):
        world = WirelessWorld(NetworkConfig(), NODES, seed, WirelessOptions())
        for node in range(NODES):
            name = f"n{node}"
            found["up"].append(float(world.rates_bps([Transfer(name, EDGE, "up")], 0.0)[0]))
            found["down"].append(float(world.rates_bps([Transfer(EDGE, name, "down")], 0.0)[0]))
            near = world.neighbours(name, 0.0)
            found["d2d"] += world.links_bps(name, near, 0.0).tolist() if near else []
    return {kind: np.array(rates) for kind, rates in found.items()}


def main() -> None:
    """Print the shares of links."""
    parser = argparse.ArgumentParser(description="Payloads over links.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    asked = parser.parse_args()
    rates = link_rates(asked.seeds)
    sizes: dict[str, float] = {
        f"{name}, {codec}": packet_bytes(model, codec)
        for name, model in MODELS.items()
        for codec in ("int8", "fp32")
    }
    rows: list[dict[str, Any]] = []
    for kind, of_kind in rates.items():
        low, middle, high = np.percentile(of_kind, [5, 50, 95]) / 1e6
        print(f"{kind}: {low:.2f}, {middle:.1f}, {high:.1f} Mbit/s (5, 50, 95 % of {len(of_kind)})")
        rows.append({"link": kind, "mbps": [low, middle, high], "links": len(of_kind)})
    for name, size in {**sizes, **SIZES}.items():
        seconds = {kind: transfer_s(size, each, LATENCY_S) for kind, each in rates.items()}
        shares = {kind: float((each <= 1.0).mean()) for kind, each in seconds.items()}
        medians = {kind: float(np.median(each)) for kind, each in seconds.items()}
        rows.append({"payload": name, "bytes": size, "within_1_s": shares, "median_s": medians})
        told = ", ".join(f"{k} {v:.0%} ({medians[k]:.2g} s)" for k, v in shares.items())
        print(f"{name}, {size / 1e3:,.1f} kB within 1 s: {told}")
    for each in REQUIREMENTS:
        share = float(each.met(rates[each.link], LATENCY_S).mean())
        rows.append({"requirement": each.name, "link": each.link, "met": share})
        print(f"{each.name} ({each.rate_bps / 1e6:,.0f} Mbit/s {each.link}): met by {share:.0%}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
