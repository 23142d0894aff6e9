"""The columns of `columns` as tables: for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from mfd_flower.report import columns
from mfd_flower.report.columns import Column, Row, Table, megabytes

MOST_CLASS_COLUMNS = 20
STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False}


def metric_name(metric: str) -> str:
    """Return how a metric is spoken of."""
    return metric.replace("_", " ")


def heading(name: str, scenario: Mapping[str, Any]) -> str:
    """Say what the numbers of a scenario are measured against, and what is cheapest."""
    said = f"{name}: wire to {metric_name(scenario['metric'])} {scenario['target']:.3f}"
    if scenario["cheapest"] is None:
        return f"{said}, which no entry keeps"
    if scenario["yardstick"] is None:
        return f"{said}, cheapest {scenario['cheapest']}; no baseline keeps it"
    yardstick = f"{scenario['yardstick']} ({megabytes(scenario['yardstick_bytes'])})"
    if scenario["cheapest"] == scenario["yardstick"]:
        return f"{said}, cheapest {yardstick}, a baseline"
    return f"{said}, cheapest {scenario['cheapest']}, yardstick {yardstick}"


def tables_of(
    name: str, scenario: Mapping[str, Any]
) -> Iterator[tuple[Table, str, list[Column], list[Row]]]:
    """Yield the tables of a scenario that have something to say: title, columns and rows."""
    for table in columns.TABLES:
        rows = [row for row in scenario["rows"] if row[table.shows]]
        title = heading(name, scenario) if table is columns.ANSWER else f"{name}: {table.title}"
        shown = [c for c in columns.COLUMNS if table in c.tables]
        if table.sparse:
            shown = [c for c in shown if any(c.of(row) for row in rows)]
        if rows:
            yield table, title, shown, rows


def summary_tables(summary: Mapping[str, Any]) -> Iterator[RichTable]:
    """Yield the brief tables of all scenarios for the terminal."""
    for name, scenario in summary.items():
        for table, title, shown, rows in tables_of(name, scenario):
            if table.brief:
                yield plain_table(shown, rows, title)


def tuning_tables(tuning: Mapping[str, Any]) -> Iterator[RichTable]:
    """Yield a table a scenario of a ``tuning.json`` with the settings that were chosen."""
    chosen = {(s["entry"], s["scenario"]): s for s in tuning["settings"] if s["chosen"]}
    for scenario, group in itertools.groupby(tuning["searches"], lambda s: s["scenario"]):
        rows = []
        for search in group:
            setting = chosen.get((search["entry"], scenario), {"rungs": [{}]})
            rows.append({**setting, **setting["rungs"][-1], **search})
        yield plain_table(columns.TUNED, rows, f"{scenario}: chosen by {tuning['objective']}")


def plain_table(shown: Sequence[Column], rows: Sequence[Row], title: str = "") -> RichTable:
    """Return a table for the terminal."""
    # Labels, classes and files may hold brackets, which rich would read as its markup.
    table = RichTable(title=escape(title) or None, **STYLE)
    for column in shown:
        # A path is the only name of a picture, so it is broken rather than cut.
        table.add_column(escape(column.heading), overflow="fold")
    for row in rows:
        table.add_row(*(escape(column.cell(row)) for column in shown))
    return table


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the tables of all scenarios as Markdown."""
    parts = []
    for name, scenario in summary.items():
        for _, title, shown, rows in tables_of(name, scenario):
            lines = [[c.heading for c in shown], ["---"] * len(shown)]
            lines += [[c.cell(row) for c in shown] for row in rows]
            parts += [f"**{title}**", "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    return "\n\n".join(parts) + "\n"


def summary_csv(summary: Mapping[str, Any]) -> str:
    """Return one line a scenario and strategy with all columns, in full and in their units."""
    lines = [
        {"scenario": name} | dict(pair for c in columns.COLUMNS for pair in _numbers(c, row))
        for name, scenario in summary.items()
        for row in scenario["rows"]
    ]
    page = io.StringIO()
    writer = csv.DictWriter(page, list(lines[0]) if lines else ["scenario"])
    writer.writeheader()
    writer.writerows(lines)
    return page.getvalue()


def _numbers(column: Column, row: Row) -> Iterator[tuple[str, Any]]:
    value = column.of(row)
    if column.unit == "mean":
        yield column.heading, value["mean"]
        yield f"{column.heading} (std)", value["std"]
    elif column.unit == "ratio":
        for name in ("median", "low", "high"):
            yield f"{column.heading} ({name})", value and value[name]
    else:
        yield f"{column.heading} ({column.unit})" if column.unit else column.heading, value


def partition_table(
    classes: Sequence[str], holders: Sequence[str], counts: Sequence[Sequence[int]]
) -> RichTable:
    """Return samples by holder and class; of many classes, how many each holds."""
    many = len(classes) > MOST_CLASS_COLUMNS
    shown = [f"classes of {len(classes)}"] if many else map(escape, classes)
    table = RichTable("node", *shown, "all")
    for holder, row in zip(holders, counts, strict=True):
        cells = [str(np.count_nonzero(row))] if many else [str(c) if c else "." for c in row]
        table.add_row(escape(holder), *cells, str(sum(row)))
    return table


def option_table(options: Sequence[Sequence[str]]) -> RichTable:
    """Return the rows of `mfd_flower.parameters.rows`, without columns that say nothing."""
    headings = ("option", "type", "default", "accepted", "what it is")
    shown = [c for c in range(len(headings)) if any(row[c] for row in options)]
    table = RichTable(*(headings[c] for c in shown))
    for row in options:
        table.add_row(*(escape(row[c]) for c in shown))
    return table


def plan_table(plan: Mapping[str, float]) -> RichTable:
    """Return the closed forms of `mfd_flower.accounting.plan` as a table."""
    below = f"below {plan['crossover_samples']:.4g} samples a node and round"
    caption = f"split sends less than FedAvg of the full model {below}"
    table = RichTable("way of learning", "payload", "against FedAvg, full model", caption=caption)
    for name, size in plan.items():
        if name.endswith("_bytes"):
            share = f"{size / plan['fedavg_bytes']:.2g}"
            table.add_row(name.removesuffix("_bytes").replace("_", " "), megabytes(size), share)
    return table
