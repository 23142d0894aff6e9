"""28 TB, decoded: what FedAvg of a 7B model moves, what walking halves, and what small payloads do.

    mfd reproduce mfd-28tb
    python experiments/mfd_28tb.py --json experiments/results/mfd-28tb/summary.json

The whitepaper's example (section 2.1): Llama-2-7B, ten nodes, a hundred rounds, 28 TB, which is
7e9 parameters x 2 bytes x 2 directions x 10 x 100. Here packets of that model's shapes are made
with random values and their bytes counted: LoRA of the query and value projections, deep prompts,
and exact sums over features of its width. Only the full model's packet, 13.5 GB, is not made: its
payload is computed from the published shapes. What these payloads learn is no part of this.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfd_flower.models.rounded import Rounding
from mfd_flower.models.sums import Sums
from mfd_flower.packets import pack
from mfd_flower.report.columns import megabytes

LAYERS, WIDTH, HIDDEN, VOCABULARY = 32, 4096, 11008, 32000
"""Llama-2-7B (Touvron et al. 2023, arXiv 2307.09288)."""
NODES, ROUNDS, SAMPLES, CLASSES = 10, 100, 1000, 10
RANK, PROMPTS, DIRECTIONS = 8, 10, 512
PARAMETERS = (
    2 * VOCABULARY * WIDTH + WIDTH + LAYERS * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN + 2 * WIDTH)
)
FEATURES = Rounding(bits=4, clip=3.0)


def lora() -> dict[str, Tensor]:
    """Return factors of every query and value projection."""
    found = {}
    for layer in range(LAYERS):
        for target in ("q_proj", "v_proj"):
            name = f"model.layers.{layer}.self_attn.{target}"
            found[f"{name}.lora_A.default.weight"] = torch.randn(RANK, WIDTH)
            found[f"{name}.lora_B.default.weight"] = torch.randn(WIDTH, RANK)
    return found


def prompts() -> dict[str, Tensor]:
    """Return prompts in front of every layer."""
    return {f"prompts.{layer}": torch.randn(PROMPTS, WIDTH) for layer in range(LAYERS)}


def packet_bytes(tensors: Mapping[str, Tensor], codec: str) -> int:
    """Return the bytes of a packet that brings these tensors."""
    told: dict[str, Any] = {
        "packet_id": f"{1:032x}", "model_id": "llama-2-7b", "source": "n0", "destination": "n1",
        "ttl": 10, "hop": 1, "seen": (float(SAMPLES),) * CLASSES,
    }  # fmt: skip
    packet, _ = pack(tensors, codec=codec, **told)
    return len(packet.to_bytes())


def tour_bytes(width: int) -> int:
    """Return what one tour of exact sums takes: a hop has the sums of all nodes so far."""
    rng, total, size = np.random.default_rng(0), Sums.nothing(width, CLASSES), 0
    for node in range(NODES):
        normal = rng.standard_normal((SAMPLES, width), dtype=np.float32)
        whole = np.clip(np.rint(normal / FEATURES.step), -FEATURES.largest, FEATURES.largest)
        total = total + Sums.of(whole.astype(np.int64), rng.integers(0, CLASSES, SAMPLES), CLASSES)
        if node < NODES - 1:
            data = torch.from_numpy(np.frombuffer(total.to_bytes(), np.uint8).copy())
            size += packet_bytes({"sums": data}, "bytes")
    return size


def measured() -> list[dict[str, Any]]:
    """Return a row a payload: bytes of a packet, and of FedAvg and a walk of as many visits."""
    visits = NODES * ROUNDS
    rows: list[dict[str, Any]] = [
        {"payload": "full model, 16 bits", "packet": 2 * PARAMETERS, "counted": False}
    ]
    for name, tensors in ((f"LoRA, rank {RANK}", lora()), (f"{PROMPTS} deep prompts", prompts())):
        for codec in ("fp16", "int8"):
            size = packet_bytes(tensors, codec)
            rows.append({"payload": f"{name}, {codec}", "packet": size, "counted": True})
    for row in rows:
        row |= {"fedavg": 2 * row["packet"] * visits, "walk": row["packet"] * visits}
    for width, name in ((WIDTH, "exact sums, all"), (DIRECTIONS, f"exact sums, {DIRECTIONS}")):
        size = tour_bytes(width)
        told = {"packet": size // (NODES - 1), "counted": True, "fedavg": None, "walk": size}
        rows.append({"payload": f"{name} directions, one tour", **told})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Count, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    began, rows = time.perf_counter(), measured()
    told = 7e9 * 2 * 2 * NODES * ROUNDS
    print(f"the text: {megabytes(told)}; of {PARAMETERS / 1e9:.3f}e9 parameters it is more exactly")
    print("| payload | a packet | FedAvg | walk, as many visits | of the text's |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        fedavg = "-" if row["fedavg"] is None else megabytes(row["fedavg"])
        packet = megabytes(row["packet"]) + ("" if row["counted"] else " (computed)")
        share = f"1/{told / row['walk']:,.3g}"
        print(f"| {row['payload']} | {packet} | {fedavg} | {megabytes(row['walk'])} | {share} |")
    if given.json:
        found = {
            "command": "mfd reproduce mfd-28tb",
            "the_text_bytes": told,
            "parameters": PARAMETERS,
            "rows": rows,
            "wall_seconds": time.perf_counter() - began,
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
