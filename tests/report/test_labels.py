"""Labels are shown as they are, whatever they mean to rich or to matplotlib."""

from __future__ import annotations

import io

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mfd_flower.accounting.summary import summarise
from mfd_flower.comparison import comparison_from_tables
from mfd_flower.report.plots import draw_plots, drawn, plot_accuracy, plot_partition
from mfd_flower.report.progress import watch
from mfd_flower.report.tables import partition_table, summary_tables
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run

LABELS = ["x [/y]", "walk [int8]", r"$\frac$ and", "a\\", "[red]", "$"]


def printed(*tables: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def texts(figure: Figure) -> str:
    _, svg = drawn(figure)
    return svg.decode().replace("&amp;", "&")


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_shown_as_it_is(label: str) -> None:
    runs = [run("fedavg", curve([0.1, 0.9])), run(label, curve([0.1, 0.9]))]
    results = Results({"name": "x", "margin": 0.0, "metric": "accuracy"}, {}, runs)
    assert label in printed(*summary_tables(results.summary))
    (figures,) = draw_plots(results).values()
    assert len(figures) == 3
    for _, svg in figures.values():
        assert label in svg.decode().replace("&amp;", "&")


@pytest.mark.parametrize("label", LABELS)
def test_a_heading_names_scenario_and_cheapest_row_as_they_are(label: str) -> None:
    fedavg = run(f"fedavg {label}", curve([0.1, 0.9])) | {"scenario": label}
    said = f"{label}: wire to accuracy 0.900, cheapest fedavg {label} ("
    assert said in printed(*summary_tables(summarise([fedavg], 0.0)))


@pytest.mark.parametrize("label", LABELS)
def test_who_sends_nothing_is_named_as_it_is(label: str) -> None:
    nothing = [{**p, "bytes": dict.fromkeys(p["bytes"], 0)} for p in curve([0.1, 0.9])]
    runs = [run("fedavg", curve([0.1, 0.9])), run(label, nothing)]
    figure = plot_accuracy(runs, summarise(runs, 0.0)["iid"])
    assert f"{label} (nothing sent)" in texts(figure)


@pytest.mark.parametrize("label", LABELS)
def test_classes_and_holders_are_named_as_they_are(label: str) -> None:
    names, holders, counts = [label, "other"], [f"n0 {label}", "n1"], [[1, 2], [3, 4]]
    for page in (
        printed(partition_table(names, holders, counts)),
        texts(plot_partition(names, holders, counts)),
    ):
        assert page.count(label) >= 2
        assert f"n0 {label}" in page


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("label", LABELS)
def test_progress_shows_a_label_as_it_is(label: str, terminal: bool) -> None:
    tables = {"data": {"name": "digits"}, "strategies": [{"strategy": "fedavg", "label": label}]}
    comparison = comparison_from_tables(tables, "test")
    screen = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    lines: list[str] = []
    with watch(screen, lines.append, comparison, 0) as hear:
        hear(comparison.runs[0].key, "begins")
    assert isinstance(screen.file, io.StringIO)
    assert label in screen.file.getvalue()
