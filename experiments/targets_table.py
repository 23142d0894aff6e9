"""Print the tables of a comparison's page from its committed summary, as Markdown.

    python experiments/targets_table.py experiments/results/yardstick/summary.json

A row an entry, the cheapest to the comparison's target first: final accuracy as mean and standard
deviation over seeds; wire until 90, 95, 98, 99 and 100 % of the best accuracy of that scenario are
reached and kept, medians, with the seeds that do if not all; then, to the comparison's target, the
factor on the wire of the thriftiest baseline and on that of the thriftiest one with the same
payload, each with its least and largest over pairs of seeds; busiest node, virtual time and FLOPs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def kilobytes(size: float | None) -> str:
    """Return a size in kB to three digits, "never" without one."""
    return (
        "never" if size is None else f"{size / 1000:,.3g}" if size < 1e6 else f"{size / 1000:,.0f}"
    )


def wire(target: Row, seeds: int) -> str:
    """Return the wire to a target, and how many seeds kept it if some did not."""
    some = f" ({target['seeds']}/{seeds})" if 0 < target["seeds"] < seeds else ""
    return kilobytes(target["kept_bytes"]) + some


def factor(ratio: Row | None) -> str:
    """Return a factor and its interval."""
    if ratio is None:
        return "-"
    words = {None: "never", 0: "alone"}  # Never there, and there where the other one is not.
    median, low, high = (
        words.get(ratio[n]) or f"{ratio[n]:.2g}" for n in ("median", "low", "high")
    )
    return f"{median} ({low} to {high})"


def cells(row: Row, metric: str) -> list[str]:
    """Return the cells of an entry."""
    key = {"accuracy": "final", "macro_accuracy": "macro"}[metric]
    end, target, seeds = row[key], row["target"], row["seeds"]
    at_target = [
        "-" if target["kept_bytes"] is None else text
        for text in (
            factor(row["ratio"]),
            factor(row["alike_ratio"]),
            kilobytes(target["kept_busiest_bytes"]),
            f"{target['kept_virtual_seconds'] or 0:.3g}",
            f"{(target['kept_flops'] or 0) / 1e9:.3g}",
        )
    ]
    return [
        row["strategy"],
        f"{end['mean']:.3f} ± {end['std']:.3f}",
        *(wire(each, seeds) for each in row["targets"]),
        *at_target,
    ]


def table(name: str, scenario: Row) -> str:
    """Return the table of one scenario."""
    metric = scenario.get("metric", "accuracy")
    shares = [f"{each['share']:.0%}" for each in scenario["rows"][0]["targets"]]
    accuracies = [f"{each['accuracy']:.3f}" for each in scenario["rows"][0]["targets"]]
    heads: Sequence[str] = [
        *("", metric.replace("_", " ")),
        *(f"{share} ({found})" for share, found in zip(shares, accuracies, strict=True)),
        *("x baseline", "x same payload", "busiest", "s", "GFLOP"),
    ]
    rows = sorted(
        scenario["rows"],
        key=lambda row: (row["target"]["kept_bytes"] or math.inf, -row["final"]["mean"]),
    )
    lines = [heads, ["---"] * len(heads), *(cells(row, metric) for row in rows)]
    said = f"**{name}**: wire in kB; what follows the targets is to {scenario['target']:.3f}"
    return f"{said}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print one table a scenario."""
    parser = argparse.ArgumentParser(description="Tables of a comparison's targets.")
    parser.add_argument("summary", type=Path, help="summary.json, or results.json")
    found = json.loads(parser.parse_args().summary.read_text(encoding="utf-8"))
    print("\n\n".join(table(name, each) for name, each in found["summary"].items()))


if __name__ == "__main__":
    main()
