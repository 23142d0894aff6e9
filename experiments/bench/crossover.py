"""Measure the bytes of a round over samples a client: HFSL against FedAvg, and where they cross.

    python experiments/bench/crossover.py        # writes experiments/results/bench/crossover.*
    python experiments/bench/crossover.py --samples 8 32

With n samples, E epochs and b_c bytes a sample over cut c in one direction, a cluster's round sends
``2 m + 2 E n sum(b_c)``, m being the tunables; FedAvg's client sends ``2 M``. They cross at
``n* = (M - m) / (E sum(b_c))`` (`mfd_flower.accounting.plan`). Points are payload bytes of runs of
one round, which also carry labels and a head of 28 bytes a tensor; the right panel is ViT-B/16 by
the formula alone.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mfd_flower.accounting.plan import crossover_samples, cut_tokens, sample_bytes
from mfd_flower.config import RunConfig
from mfd_flower.report.plots import save
from mfd_flower.runtime.runner import run_locally

OUT = Path("experiments/results/bench")
FM_TINY = {"depth": 6, "tokens": 17}
DIM = 96


@dataclass(frozen=True)
class Split:
    """A way to split fm-tiny, and what it means for the strategy's options."""

    name: str
    cuts: tuple[int, ...]
    deep: bool = True
    u_shape: bool = False
    codec: str = "fp32"

    @property
    def tokens(self) -> list[int]:
        """Return the tokens of a sample over each cut."""
        cuts = (*self.cuts, FM_TINY["depth"]) if self.u_shape else self.cuts
        return [cut_tokens(cut, **FM_TINY, prompts=8, deep=self.deep) for cut in cuts]

    @property
    def sample_bytes(self) -> int:
        """Return what a sample moves over all cuts, there and back."""
        width = 1 + 4 / DIM if self.codec == "int8" else 4.0
        return sample_bytes(self.tokens, dim=DIM, bytes_per_value=width)


SPLITS = (
    Split("4 members, 3 cuts", (2, 3, 4)),
    Split("2 members, cut at 1", (1,)),
    Split("2 members, cut at 5", (5,)),
    Split("2 members, cut at 3, shallow prompts", (3,), deep=False),
    Split("2 members, cut at 3, U-shaped", (3,), u_shape=True),
    Split("2 members, cut at 3, int8", (3,), codec="int8"),
)


def one_round(strategy: str, samples: int, nodes: int, tables: dict[str, Any]) -> tuple[int, int]:
    """Return payload bytes of one round, and bytes of the tunables."""
    run = RunConfig.from_tables(
        {
            "data": {
                "nodes": nodes,
                "train_samples": samples * nodes,
                "test_samples": 10,
                "validation": 0.0,
            },
            "train": {"optimizer": "sgd", "lr": 0.01, "batch_size": 16},
            **tables,
            "strategy": {
                "name": strategy,
                "rounds": 1,
                "options": json.dumps(tables.get("strategy", {})),
            },
        }
    )
    record = run_locally(run)
    return record["points"][-1]["bytes"]["payload"], 4 * record["tunables"]


def measure(counts: list[int]) -> dict[str, Any]:
    """Run every split with every number of samples, and FedAvg with both payloads."""
    fedavg = {}
    for tune in ("prompts", "full"):
        sent, one_way = one_round("fedavg", counts[0], 2, {"model": {"tune": tune}})
        fedavg[tune] = {
            "measured_bytes": sent // 2,
            "formula_bytes": 2 * one_way,
            "payload_bytes": one_way,
        }
    splits = {}
    for split in SPLITS:
        options = {
            "cluster_size": len(split.cuts) + 1,
            "cuts": list(split.cuts),
            "u_shape": split.u_shape,
            "codec": split.codec,
        }
        tables = {"model": {"deep": split.deep}, "strategy": options}
        points = []
        for samples in counts:
            sent, module_bytes = one_round("hfsl", samples, len(split.cuts) + 1, tables)
            form = 2 * module_bytes + split.sample_bytes * samples
            points.append(
                {
                    "samples": samples,
                    "measured_bytes": sent,
                    "formula_bytes": form,
                    "off": sent / form - 1,
                }
            )
        payload_bytes = fedavg["full"]["payload_bytes"]
        splits[split.name] = {
            "tokens": split.tokens,
            "module_bytes": module_bytes,
            "sample_bytes": split.sample_bytes,
            "crossing_full_model_samples": crossover_samples(
                payload_bytes, module_bytes, split.sample_bytes
            ),
            "points": points,
        }
    return {"fedavg": fedavg, "splits": splits, "vit_b16": vit_b16()}


def vit_b16() -> dict[str, Any]:
    """Return where the lines of ViT-B/16 cross: 86 M parameters, 10 deep prompts, 10 classes."""
    module_bytes = 4 * (10 * 768 * 12 + 768 * 10 + 10)
    model_bytes = 4 * 85_800_000 + module_bytes
    crossings = {}
    for cuts in ((6,), (3, 6, 9)):
        tokens = [cut_tokens(cut, depth=12, tokens=197, prompts=10) for cut in cuts]
        for codec, width in (("fp32", 4.0), ("int8", 1 + 4 / 768)):
            name = f"{len(cuts) + 1} members, {codec}"
            each = sample_bytes(tokens, dim=768, bytes_per_value=width)
            found = crossover_samples(model_bytes, module_bytes, each)
            crossings[name] = {"sample_bytes": each, "crossing_full_model_samples": found}
    return {
        "module_bytes": module_bytes,
        "model_bytes": model_bytes,
        "splits": crossings,
    }


def draw(numbers: dict[str, Any], stem: Path) -> None:
    """Plot the formula as lines and what was measured as points."""
    figure = Figure(figsize=(12, 4.6))
    small, large = figure.subplots(1, 2)
    for name, split in numbers["splits"].items():
        points = split["points"]
        xs = np.geomspace(1, 4000)
        (line,) = small.plot(xs, 2 * split["module_bytes"] + split["sample_bytes"] * xs, lw=1)
        measured = [point["measured_bytes"] for point in points]
        counts = [point["samples"] for point in points]
        small.plot(counts, measured, "o", ms=4, color=line.get_color(), label=name)
    vit = numbers["vit_b16"]
    for name, split in vit["splits"].items():
        xs = np.geomspace(1, 10000)
        large.plot(xs, 2 * vit["module_bytes"] + split["sample_bytes"] * xs, lw=1, label=name)
    fedavg = numbers["fedavg"]
    for axes, full, prompts, title in (
        (small, fedavg["full"]["measured_bytes"], fedavg["prompts"]["measured_bytes"], "fm-tiny"),
        (large, 2 * vit["model_bytes"], 2 * vit["module_bytes"], "ViT-B/16, by the formula alone"),
    ):
        axes.axhline(full, color="black", ls="--", lw=1, label="FedAvg, full model")
        axes.axhline(prompts, color="black", ls=":", lw=1, label="FedAvg, prompts and head")
        axes.set(xscale="log", yscale="log", title=title)
        axes.set(xlabel="samples a client and round", ylabel="payload bytes a round and client")
        axes.legend(fontsize=7)
    save(figure, stem)


def main() -> None:
    """Measure, print where the lines cross, write JSON and PNG."""
    parser = argparse.ArgumentParser(description="Bytes of a round: HFSL against FedAvg.")
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    numbers = measure(sorted(args.samples))
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(numbers, indent=1) + "\n"
    (args.out / "crossover.json").write_text(text, encoding="utf-8")
    draw(numbers, args.out / "crossover")
    print(f"{'split':<38}{'crosses FedAvg of the full model at':>36}{'off':>9}")
    for name, split in numbers["splits"].items():
        off = max(abs(point["off"]) for point in split["points"])
        print(f"{name:<38}{split['crossing_full_model_samples']:>28.0f} samples{off:>9.2%}")
    for name, split in numbers["vit_b16"]["splits"].items():
        print(f"{'ViT-B/16, ' + name:<38}{split['crossing_full_model_samples']:>28.0f} samples")


if __name__ == "__main__":
    main()
