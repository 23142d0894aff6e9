"""A column is written in one place and stands everywhere, with how it was counted."""

from __future__ import annotations

import csv
import html
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mfd_flower.accounting.summary import summarise
from mfd_flower.report import columns
from mfd_flower.report.columns import TEXTS, Column
from mfd_flower.report.page import write_report
from mfd_flower.report.tables import markdown, summary_tables
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run

MACHINE: dict[str, Any] = {"cores": 1, "processor": "x", "python": "3", "packages": {}}
RUNS = [
    run("fedavg", curve([0.1, 0.8, 0.9], gap=3, size=60)),
    run("walk", curve([0.1, 0.5, 0.9, 0.95])),
    {**run("walk full", curve([0.1, 0.9], size=1000), tune="full"), "tunables": 9700},
    run("lost", curve([0.1, 0.2])),
]
RESULTS = Results({"name": "test", "margin": 0.01}, MACHINE, RUNS)
UNKNOWN = Column("age", lambda row: None, "s", "Nobody counted it.")


def terminal(summary: dict[str, Any]) -> str:
    page = io.StringIO()
    for table in summary_tables(summary):
        Console(file=page, width=200).print(table)
    return page.getvalue()


def test_a_column_added_in_one_place_shows_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table gets one column more, all of them different."""
    how = "The letters of the label, <counted> by hand."
    names = [f"letters {place}" for place in range(len(columns.TABLES))]
    tables = [
        replace(
            table,
            columns=(*table.columns, Column(name, lambda r: len(r["strategy"]), "bytes", how)),
        )
        for name, table in zip(names, columns.TABLES, strict=True)
    ]
    monkeypatch.setattr(columns, "TABLES", tuple(tables))
    page, text = write_report(tmp_path, RESULTS).read_text(), markdown(RESULTS.summary)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
    for name, table in zip(names, tables, strict=True):
        assert f'<th title="{html.escape(how)}">{name}</th>' in page
        assert f"| {name} |" in text
        assert (name in terminal(RESULTS.summary)) is table.brief
        assert [line[f"{name} (bytes)"] for line in lines] == ["6", "4", "9", "4"]
    assert page.count("<td>4 B</td>") == text.count("| 4 B |") > len(tables)


def test_every_column_of_every_table_has_a_unit_and_says_how_it_was_counted() -> None:
    every = {c for table in columns.TABLES for c in table.columns}
    assert all(column.unit in TEXTS and column.how.endswith(".") for column in every)
    assert len({column.heading for column in every}) == len(every), "summary.csv needs other names"


def test_every_row_stands_at_its_payload() -> None:
    tables = markdown(RESULTS.summary).split("\n\n")
    same, payload = tables[1], tables[3]
    assert "walk full" not in same
    assert all(name in payload for name in ("fedavg", "walk", "walk full", "lost"))
    assert payload.index("walk full") < payload.index("fedavg")  # large payloads first


def test_what_never_happens_and_what_is_not_known_are_told_apart() -> None:
    rows = {row["strategy"]: row for row in RESULTS.summary["iid"]["rows"]}
    assert columns.WIRE_TO_TARGET.cell(rows["lost"]) == "never"
    assert columns.RATIO.cell(rows["lost"]) == "-"
    assert columns.SEEDS.cell(rows["lost"]) == "0/1"
    assert UNKNOWN.cell(rows["lost"]) == "-"


def test_without_a_yardstick_all_rows_are_shown() -> None:
    summary = summarise(RUNS[1:], margin=0.01)
    assert "no FedAvg entry to measure against" in markdown(summary)
    assert all(run["strategy"] in terminal(summary) for run in RUNS[1:])
