"""A column is written in one place and stands everywhere, with how it was counted."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mfd_flower.accounting.summary import summarise
from mfd_flower.report import columns
from mfd_flower.report.columns import COLUMNS, SERVED, TABLES, TEXTS, TUNED, Column
from mfd_flower.report.page import write_report
from mfd_flower.report.tables import heading, markdown, summary_tables, tuning_tables
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run

MACHINE: dict[str, Any] = {"cores": 1, "processor": "x", "python": "3", "packages": {}}
RUNS = [
    run("fedavg", curve([0.1, 0.8, 0.9], gap=3, size=60)),
    run("walk", curve([0.1, 0.5, 0.9, 0.95])),
    {**run("walk full", curve([0.1, 0.9], size=1000), tune="full"), "tunables": 9700},
    run("lost", curve([0.1, 0.2])),
]
RESULTS = Results({"name": "test", "margin": 0.06, "metric": "accuracy"}, MACHINE, RUNS)


def terminal(summary: dict[str, Any]) -> str:
    page = io.StringIO()
    for table in summary_tables(summary):
        Console(file=page, width=200).print(table)
    return page.getvalue()


def test_a_column_added_in_one_place_shows_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry for each table, with a heading of its own."""
    how = "The letters of the label, <counted> by hand."
    letters = [
        Column(f"letters {place}", lambda row: len(row["strategy"]), "bytes", how, (table,))
        for place, table in enumerate(TABLES)
    ]
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, *letters))
    page, text = write_report(tmp_path, RESULTS).read_text(), markdown(RESULTS.summary)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
    for column in letters:
        assert f'<th title="{html.escape(how)}">{column.heading}</th>' in page
        assert f"| {column.heading} |" in text
        assert (column.heading in terminal(RESULTS.summary)) is column.tables[0].brief
        assert [line[f"{column.heading} (bytes)"] for line in lines] == ["6", "4", "9", "4"]
    assert page.count("<td>4 B</td>") == text.count("| 4 B |") > len(TABLES)


def test_every_column_stands_in_a_table_has_a_unit_and_says_how_it_was_counted() -> None:
    for column in (*COLUMNS, *SERVED, *TUNED):
        assert column.unit in TEXTS
        assert column.how.endswith(".")
    assert all(column.tables for column in COLUMNS)
    assert len({column.heading for column in COLUMNS}) == len(COLUMNS)  # they name CSV's


def test_a_payload_is_compared_with_its_own_kind() -> None:
    shown = {column.heading: column for column in COLUMNS}
    rows = {row["strategy"]: row for row in RESULTS.summary["iid"]["rows"]}
    assert shown["of the yardstick's"].cell(rows["walk"]) == "1/5.55"
    assert shown["at the same payload"].cell(rows["walk"]) == "1/5.55"
    assert shown["at the same payload"].cell(rows["walk full"]) == "-"


def test_what_never_happens_and_what_is_not_known_are_told_apart() -> None:
    shown = {column.heading: column for column in COLUMNS}
    (lost,) = [row for row in RESULTS.summary["iid"]["rows"] if row["strategy"] == "lost"]
    assert shown["wire to target"].cell(lost) == shown["99%"].cell(lost) == "never"
    assert shown["of the yardstick's"].cell(lost) == "never"
    assert shown["busiest node"].cell(lost) == "-"
    assert shown["seeds"].cell(lost) == "0/1"


def test_the_title_names_what_is_cheapest() -> None:
    def title(runs: list[dict[str, Any]]) -> str:
        return heading("iid", summarise(runs, margin=0.06)["iid"])

    assert title(RUNS).endswith("accuracy 0.893, cheapest walk, yardstick fedavg (122 B)")
    assert title(RUNS[:1]).endswith("accuracy 0.846, cheapest fedavg (122 B), a baseline")
    assert title(RUNS[1:]).endswith("accuracy 0.893, cheapest walk; no baseline keeps it")
    macro = summarise(RUNS, 0.06, "macro_accuracy")["iid"]
    assert heading("iid", macro).startswith("iid: wire to macro accuracy ")
    wild = RUNS[0] | {"diverged": "the loss is not finite"}
    assert title([wild]).endswith("accuracy 0.000, which no entry keeps")


def test_a_ratio_has_its_range() -> None:
    seeds = [
        run(name, curve([0.1, 0.9], size=size), seed=seed)
        for seed, sizes in enumerate([(60, 30), (60, 20), (60, 10)])
        for name, size in zip(("fedavg", "walk"), sizes, strict=True)
    ]
    (row,) = [r for r in summarise(seeds, 0.01)["iid"]["rows"] if r["strategy"] == "walk"]
    shown = {column.heading: column for column in COLUMNS}
    assert shown["of the yardstick's"].cell(row) == "1/2.9 (1/5.55 to 1/1.97)"


def test_a_tuning_shows_what_was_chosen_of_how_many_and_what_never_was() -> None:
    search = {"scenario": "iid", "tried": 2, "combinations": 9}
    mean = {"mean": 0.9, "std": 0.01}
    reached = {"target": 0.95, "kept_bytes": 1500, "best": mean, "final": mean, "seeds": [7, 8]}
    setting = {"scenario": "iid", "chosen": True, "values": {"train.lr": 0.1, "rounds": 3}}
    tuning = {
        "objective": "kept-bytes",
        "searches": [
            {**search, "strategy": name, "entry": place, "chosen": chosen}
            for place, (name, chosen) in enumerate([("drawn", 4), ("own", 0), ("lost", None)])
        ],
        "settings": [
            {**setting, "entry": 0, "number": 4, "rungs": [{}, reached]},
            {**setting, "entry": 1, "number": 0, "rungs": [{}, {**reached, "kept_bytes": None}]},
            {**setting, "entry": 2, "number": 0, "rungs": [], "chosen": False},
        ],
    }
    page = io.StringIO()
    for table in tuning_tables(tuning):
        Console(file=page, width=200).print(table)
    title, _, _, _, *lines = page.getvalue().splitlines()
    cells = [re.split(r"  +", line.strip()) for line in lines if line.strip()]
    assert title.strip() == "iid: chosen by kept-bytes"
    accuracy = "0.900 ± 0.010"
    assert cells == [
        ["drawn", "2 of 9", "train.lr 0.1", "0.950", "1.5 kB", accuracy, accuracy, "2"],
        ["rounds 3"],
        ["own", "2 of 9", "train.lr 0.1", "0.950", "never", accuracy, accuracy, "2"],
        ["rounds 3"],
        ["(as it stands)"],
        ["lost", "2 of 9", "none, every setting failed", "-", "never", "-", "-", "0"],
    ]
