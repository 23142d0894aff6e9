"""Tables for the terminal, and the rounds as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from mfd_flower.files import write_text

STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False}
REACH_HEADINGS = (
    "strategy",
    "final accuracy",
    "last tour",
    "bytes to target",
    "of FedAvg's",
    "first reach",
    "of FedAvg's",
    "seeds",
)


TRAVEL_HEADINGS = (
    "strategy",
    "best accuracy",
    "final accuracy",
    "visits entropy",
    "control bytes",
    "of wire",
    "virtual time",
)


def megabytes(size_bytes: float | None) -> str:
    """Write a number of bytes so that a person can compare it."""
    if size_bytes is None:
        return "never"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def fraction(ratio: float | None) -> str:
    """Write a ratio as 1/x where that reads better."""
    if ratio is None:
        return "-"
    if ratio == 0:
        return "0"
    return f"1/{1 / ratio:.3g}" if ratio < 0.95 else f"{ratio:.3g}x"


def reach_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one strategy under `REACH_HEADINGS`."""
    kept = [size for size in row.get("seeds_sustained", []) if size is not None]
    return (
        row["strategy"],
        f"{row['final']['mean']:.3f} ± {row['final']['std']:.3f}",
        f"{row['tour']['mean']:.3f} ± {row['tour']['std']:.3f}",
        megabytes(row.get("sustained_bytes")),
        fraction(row["ratio"]),
        megabytes(row.get("first_bytes")),
        fraction(row["first_ratio"]),
        f"{len(kept)}/{row['seeds']}",
    )


def payload_rows(scenario: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield (payload, strategy, bytes of one transfer, bytes to target, share) per row."""
    for row in sorted(scenario["rows"], key=lambda r: -r["tunables"]):
        if row["total_payload"]:
            yield (
                row["payload"],
                row["strategy"],
                megabytes(4 * row["tunables"]),
                f"{row['tour']['mean']:.3f} ± {row['tour']['std']:.3f}",
                megabytes(row.get("sustained_bytes")),
                fraction(row["ratio"]),
            )


def travel_rows(scenario: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells under `TRAVEL_HEADINGS` of every strategy that sends control messages."""
    return [
        (
            row["strategy"],
            f"{row['best']['mean']:.3f} ± {row['best']['std']:.3f}",
            f"{row['final']['mean']:.3f} ± {row['final']['std']:.3f}",
            f"{row['visits_entropy']['mean']:.3f}",
            megabytes(row["control_bytes"]),
            f"{100 * row['control_share']:.2g} %",
            f"{row['virtual_seconds']:.1f} s",
        )
        for row in scenario["rows"]
        if row["control_bytes"]
    ]


PAYLOAD_HEADINGS = (
    "payload",
    "strategy",
    "one transfer",
    "last tour",
    "bytes to target",
    "of FedAvg's",
)


def heading(name: str, scenario: Mapping[str, Any]) -> str:
    """Say what the numbers of a scenario are measured against."""
    if scenario["target"] is None:
        return f"{name}: no FedAvg entry to measure against"
    if scenario["yardstick"] is None:
        return f"{name}: target accuracy {scenario['target']:.3f}, which no FedAvg entry keeps"
    return (
        f"{name}: bytes to accuracy {scenario['target']:.3f}, yardstick {scenario['yardstick']}"
        f" ({megabytes(scenario['yardstick_bytes'])})"
    )


def summary_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Yield two tables a scenario: same payload, and the payload's own effect."""
    for name, scenario in summary.items():
        table = Table(*REACH_HEADINGS, title=heading(name, scenario), **STYLE)
        for row in scenario["rows"]:
            if row["same_payload"] or scenario["yardstick"] is None:
                table.add_row(*reach_row(row))
        yield table
        if any(not row["same_payload"] for row in scenario["rows"]) and scenario["yardstick"]:
            title = f"{name}: what the payload saves on top"
            other = Table(*PAYLOAD_HEADINGS, title=title, **STYLE)
            for cells in payload_rows(scenario):
                other.add_row(*cells)
            yield other


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the tables of all scenarios as Markdown."""
    parts = []
    for name, scenario in summary.items():
        rows = [r for r in scenario["rows"] if r["same_payload"] or scenario["yardstick"] is None]
        parts.append(f"**{heading(name, scenario)}**")
        parts.append(_markdown_table(REACH_HEADINGS, [reach_row(row) for row in rows]))
        if len(rows) < len(scenario["rows"]):
            parts.append(f"{name}: what the payload saves on top")
            parts.append(_markdown_table(PAYLOAD_HEADINGS, list(payload_rows(scenario))))
        if travelled := travel_rows(scenario):
            parts.append(f"{name}: how the model travelled")
            parts.append(_markdown_table(TRAVEL_HEADINGS, travelled))
    return "\n\n".join(parts) + "\n"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def partition_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Return samples by node and class."""
    table = Table("node", *classes, "all")
    for node, row in enumerate(counts):
        table.add_row(f"n{node}", *(str(c) if c else "." for c in row), str(sum(row)))
    return table


def write_rounds_csv(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write every measured point as one line."""
    rows = [
        {
            "scenario": run["scenario"],
            "strategy": run["strategy"],
            "seed": run["seed"],
            **{key: value for key, value in point.items() if key != "bytes"},
            **{f"bytes_{key}": value for key, value in point["bytes"].items()},
        }
        for run in runs
        for point in run["points"]
    ]
    page = io.StringIO()
    # A backdoor's success is measured in some scenarios only.
    writer = csv.DictWriter(page, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, page.getvalue())
