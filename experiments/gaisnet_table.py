"""Print a table of GaisNet's experiments from measured results, the paper's numbers beside it.

    mfd reproduce fig6-pretraining
    python experiments/gaisnet_table.py fig6-pretraining

`NAME` is fig6-pretraining, fig7-frozen-backbone, table3-classes or table4-clusters; its results are
read from out/NAME, or from `--results`. Accuracy is that after the first epoch, round or tour and
after the last, mean and standard deviation over seeds; seconds an epoch are wall time. The paper
has ViT-Base/16 on five classes of flowers: its numbers are there to compare orders.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mfd_flower.results import Results

PAPER: dict[str, dict[str, str]] = {
    "fig6-pretraining": {
        "pre-trained, frozen": "0.968, 0.975",
        "drawn at random, frozen": "0.570 at most",
    },
    "fig7-frozen-backbone": {
        "frozen, prompts": "35 s an epoch",
        "all fine-tuned": "210 s an epoch, ends lower",
    },
    "table3-classes": {
        "(a) 1 class": "0.200, 0.200",
        "(a) 2 classes": "0.397, 0.397",
        "(a) 3 classes": "0.575, 0.595",
        "(a) 4 classes": "0.753, 0.767",
        "(a) 5 classes": "0.933, 0.967",
    },
    "table4-clusters": {
        "1 cluster": "0.930, 0.950",
        "2 clusters": "0.940, 0.955",
        "3 clusters": "0.943, 0.960",
        "4 clusters": "0.950, 0.963",
        "5 clusters": "0.966, 0.974",
        "6 clusters": "0.968, 0.975",
    },
}
"""By entry or scenario: accuracy after the first and the last epoch, where the paper gives both."""


def rows_of(results: Results, name: str) -> list[dict[str, Any]]:
    """Return a row a scenario and entry."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in results.runs:
        groups.setdefault((run["scenario"], run["strategy"]), []).append(run)
    rows = []
    for (scenario, label), runs in groups.items():
        curves = [run["points"] for run in runs]
        # A walk is measured after every hop: its first round is its first tour.
        rounds = runs[0]["settings"]["strategy.rounds"]
        first = [curve[round((len(curve) - 1) / rounds)]["accuracy"] for curve in curves]
        paper = PAPER[name].get(scenario, PAPER[name].get(label, ""))
        if name == "table3-classes" and not label.startswith("HFSL"):
            paper = ""
        rows.append(
            {
                "scenario": scenario,
                "entry": label,
                "first": first,
                "last": [curve[-1]["accuracy"] for curve in curves],
                "seconds": [
                    (curve[-1]["wall_seconds"] - curve[1]["wall_seconds"]) / (len(curve) - 2)
                    if len(curve) > 2
                    else None
                    for curve in curves
                ],
                "peak_node_bytes": max(curve[-1]["peak_node_bytes"] for curve in curves),
                "flops": mean(curve[-1]["flops"] for curve in curves),
                "paper": paper,
            }
        )
    return rows


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| | | after 1 | at the end | s an epoch | memory of a node | GFLOP | paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        seconds = [s for s in row["seconds"] if s is not None]
        cells = (
            row["scenario"],
            row["entry"],
            spread(row["first"]),
            spread(row["last"]),
            f"{mean(seconds):.2f}" if seconds else "-",
            f"{row['peak_node_bytes'] / 1e6:.1f} MB",
            f"{row['flops'] / 1e9:,.0f}",
            row["paper"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    """Print a table, and write its numbers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=PAPER)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = Results.load(given.results or Path("out") / given.name)
    rows = rows_of(results, given.name)
    print(table(rows))
    if given.json:
        told = {"command": f"mfd reproduce {given.name}", "machine": results.machine, "rows": rows}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
