"""Labels are shown as they are, whatever they mean to rich or to matplotlib."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mfd_flower.comparison import comparison_from_tables
from mfd_flower.report.plots import draw_plots
from mfd_flower.report.progress import watch
from mfd_flower.report.tables import summary_tables
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run

LABELS = ["x [/y]", "walk [int8]", r"$\frac$ and", "a\\", "[red]", "$"]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_shown_as_it_is(label: str) -> None:
    runs = [run("fedavg", curve([0.1, 0.9])), run(label, curve([0.1, 0.9]))]
    results = Results({"name": "x", "margin": 0.0}, {}, runs)
    console = Console(file=io.StringIO(), width=200)
    for table in summary_tables(results.summary):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert label in console.file.getvalue()
    (figures,) = draw_plots(results).values()
    assert len(figures) == 3
    for _, svg in figures.values():
        assert label in svg.decode().replace("&amp;", "&")


@pytest.mark.parametrize("label", LABELS)
def test_progress_shows_a_label_as_it_is(label: str) -> None:
    tables = {"data": {"name": "digits"}, "strategies": [{"strategy": "fedavg", "label": label}]}
    comparison = comparison_from_tables(tables, "test")
    screen = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    lines: list[str] = []
    with watch(screen, lines.append, comparison, 0) as hear:
        hear(comparison.runs[0].key, "begins")
    assert isinstance(screen.file, io.StringIO)
    assert label in screen.file.getvalue()
