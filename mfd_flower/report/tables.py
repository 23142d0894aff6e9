"""The tables of `columns` for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from mfd_flower.report import columns
from mfd_flower.report.columns import Column, Row, Section, megabytes

STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False}


def heading(name: str, scenario: Mapping[str, Any]) -> str:
    """Say what the numbers of a scenario are measured against."""
    if scenario["target"] is None:
        return f"{name}: no FedAvg entry to measure against"
    if scenario["yardstick"] is None:
        return f"{name}: target accuracy {scenario['target']:.3f}, which no FedAvg entry reaches"
    return (
        f"{name}: bytes to accuracy {scenario['target']:.3f}, yardstick {scenario['yardstick']}"
        f" ({megabytes(scenario['yardstick_bytes'])})"
    )


def sections(scenario: Mapping[str, Any]) -> Iterator[tuple[Section, list[Row]]]:
    """Yield the tables of a scenario that have something to say, with their rows."""
    rows = scenario["rows"]
    same, payload, *others = columns.TABLES
    at_same = [row for row in rows if same.shows(row)]
    yield same, at_same or rows
    if at_same and len(at_same) < len(rows):
        yield payload, sorted(filter(payload.shows, rows), key=lambda row: -row["tunables"])
    for section in others:
        if shown := [row for row in rows if section.shows(row)]:
            yield section, shown


def summary_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the brief tables of all scenarios for the terminal."""
    for name, scenario in summary.items():
        for place, (section, rows) in enumerate(sections(scenario)):
            title = f"{name}: {section.title}" if place else heading(name, scenario)
            if section.brief:
                yield plain_table(section.columns, rows, title)


def plain_table(shown: Sequence[Column], rows: Sequence[Row], title: str | None = None) -> Table:
    """Return a table for the terminal."""
    table = Table(*(column.heading for column in shown), title=title, **STYLE)
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the tables of all scenarios as Markdown."""
    parts = []
    for name, scenario in summary.items():
        for place, (section, rows) in enumerate(sections(scenario)):
            title = f"{name}: {section.title}" if place else f"**{heading(name, scenario)}**"
            lines = [[c.heading for c in section.columns], ["---"] * len(section.columns)]
            lines += [[c.cell(row) for c in section.columns] for row in rows]
            parts += [title, "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    return "\n\n".join(parts) + "\n"


def summary_csv(summary: Mapping[str, Any]) -> str:
    """Return one line a scenario and strategy with all columns, in full and in their units."""
    every = {column.heading: column for table in columns.TABLES for column in table.columns}
    page = io.StringIO()
    lines = [
        {"scenario": name} | dict(pair for c in every.values() for pair in _numbers(c, row))
        for name, scenario in summary.items()
        for row in scenario["rows"]
    ]
    writer = csv.DictWriter(page, list(lines[0]) if lines else ["scenario"])
    writer.writeheader()
    writer.writerows(lines)
    return page.getvalue()


def _numbers(column: Column, row: Row) -> Iterator[tuple[str, Any]]:
    value = column.value(row)
    if column.unit == "mean":
        yield column.heading, value["mean"]
        yield f"{column.heading} (std)", value["std"]
    else:
        yield f"{column.heading} ({column.unit})" if column.unit else column.heading, value


def partition_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Return samples by node and class."""
    table = Table("node", *classes, "all")
    for node, row in enumerate(counts):
        table.add_row(f"n{node}", *(str(c) if c else "." for c in row), str(sum(row)))
    return table
