"""Print the table of `experiments/hfsl.toml` from its results, as Markdown.

    mfd reproduce hfsl && python experiments/hfsl_table.py out/hfsl

First and last accuracy are GaisNet's columns (arXiv 2401.02668, Tables III and IV): after the first
round and after the last, here as mean and standard deviation over seeds. FLOPs and memory are those
of the node that has most of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mfd_flower.accounting.summary import spread
from mfd_flower.report.columns import megabytes
from mfd_flower.results import Results

HEADINGS = (
    "strategy",
    "first",
    "last",
    "up",
    "down",
    "d2d",
    "virtual time",
    "energy",
    "GFLOPs a node",
    "memory a node",
)


def cells(name: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one strategy's row: means over seeds, the largest node."""
    last = [run["points"][-1] for run in runs]
    rounds = [run["settings"]["strategy.rounds"] for run in runs]
    # A walk is measured after every hop: its first round is its first tour.
    first = [
        run["points"][round((len(run["points"]) - 1) / count)]
        for run, count in zip(runs, rounds, strict=True)
    ]
    accuracy = [spread([point["accuracy"] for point in points]) for points in (first, last)]
    links = [sum(p["bytes"][link] for p in last) / len(last) for link in ("up", "down", "d2d")]
    flops = max(max(run["node_flops"].values()) for run in runs)
    memory = max(max(run["node_peak_bytes"].values()) for run in runs)
    return [
        name,
        *(f"{each['mean']:.3f} ± {each['std']:.3f}" for each in accuracy),
        *(megabytes(size) for size in links),
        f"{sum(p['virtual_seconds'] for p in last) / len(last):.1f} s",
        f"{sum(p['joules'] for p in last) / len(last):.1f} J",
        f"{flops / 1e9:.1f}",
        megabytes(memory),
    ]


def main() -> None:
    """Print one table a scenario."""
    parser = argparse.ArgumentParser(description="Table of the HFSL experiment.")
    parser.add_argument("folder", type=Path, help="with results.json")
    runs = Results.load(parser.parse_args().folder).runs
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        here = [run for run in runs if run["scenario"] == scenario]
        print(f"**{scenario}**\n\n| {' | '.join(HEADINGS)} |")
        print(f"| {' | '.join('---' for _ in HEADINGS)} |")
        for name in dict.fromkeys(run["strategy"] for run in here):
            row = cells(name, [run for run in here if run["strategy"] == name])
            print(f"| {' | '.join(row)} |")
        print()


if __name__ == "__main__":
    main()
