"""What each node gave and gets, in the page: of new results, of older ones, of hostile ones."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from mfd_flower.report.of_nodes import MOST_ROWS, gives_and_gets
from mfd_flower.report.page import write_report
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run
from tests.report.test_columns import MACHINE

TITLE = "<h3>What each node gave and gets</h3>"
CONFIG = {"name": "test", "margin": 0.06, "metric": "accuracy"}


def with_losses(losses: list[float], **more: Any) -> dict[str, Any]:
    points = curve([0.1, 0.8, 0.9], gap=2)[: len(losses)]
    points = [{**point, "loss": loss} for point, loss in zip(points, losses, strict=True)]
    return {**run("walk", points), **more}


def page_of(folder: Path, *runs: dict[str, Any]) -> str:
    """Write results, read them again, and return the report."""
    Results(CONFIG, MACHINE, [*runs]).save(folder)
    return write_report(folder, Results.load(folder)).read_text()


def rows_of(page: str) -> list[list[str]]:
    table = page.partition(TITLE)[2].partition("</table>")[0]
    return [re.findall("<td>(.*?)</td>", line) for line in table.splitlines() if "<td>" in line]


def test_a_row_has_what_a_node_gave_and_its_share_of_a_profit_of_1(tmp_path: Path) -> None:
    # n0 and n1, then n2 and n0: falls of 1.2 and 0.4.
    told = with_losses(
        [2.0, 0.8, 0.4],
        node_samples={"n0": 20, "n1": 30, "n2": 40},
        node_bytes={"n0": 1500, "n1": 900, "n2": 0},
        node_flops={"n0": 4e9, "n1": 2e9},
    )
    page = page_of(tmp_path, told, {**told, "seed": 1})
    assert "walk, seed 0, contribution: fall of the loss</caption>" in page
    assert "walk, seed 1" not in page.partition(TITLE)[2]
    assert rows_of(page) == [
        ["n0", "20", "1.5 kB", "1", "4e+09", "0.8", "0.500"],
        ["n1", "30", "900 B", "2", "2e+09", "0.6", "0.375"],
        ["n2", "40", "0 B", "0", "0", "0.2", "0.125"],
    ]


def test_who_made_it_worse_gets_nothing_and_nobody_gets_any_if_all_did() -> None:
    found = gives_and_gets(with_losses([2.0, 1.0, 3.0]))
    assert found
    assert [row["payment"] for row in found.rows] == [0.0, 1.0, 0.0]
    worse = gives_and_gets(with_losses([2.0, 3.0, 4.0]))
    assert worse
    assert [row["payment"] for row in worse.rows] == [0.0, 0.0, 0.0]


def test_older_results_load_and_show_what_they_tell(tmp_path: Path) -> None:
    older = run("fedavg", curve([0.1, 0.8]))
    assert "loss" not in older["points"][0]
    assert {"node_bytes", "node_samples", "node_flops"}.isdisjoint(older)
    page = page_of(tmp_path, older)
    assert "fedavg, seed 0, contribution: not measured" in page
    assert rows_of(page)[0] == ["n0", "-", "-", "1", "-", "-", "-"]
    del older["node_joules"], older["seconds_by"]
    assert TITLE not in page_of(tmp_path, older)


def test_a_run_that_diverged_has_no_contributions(tmp_path: Path) -> None:
    page = page_of(tmp_path, with_losses([2.0, math.nan, 1.0]))
    assert "contribution: not measured" in page


def test_of_many_nodes_the_largest_contributions_are_shown(tmp_path: Path) -> None:
    visits = [f"n{place % 150}" for place in range(100, 104)]
    many = with_losses([2.0, 1.0, 0.9], nodes=150, visits=visits)
    page = page_of(tmp_path, many)
    assert f"; {MOST_ROWS} of 150 nodes, the largest first</caption>" in page
    rows = rows_of(page)
    assert len(rows) == MOST_ROWS
    assert [row[0] for row in rows[:5]] == ["n100", "n101", "n102", "n103", "n0"]


@pytest.mark.parametrize("where", ["node_samples", "contributions"])
def test_nothing_of_a_record_is_markup(tmp_path: Path, where: str) -> None:
    hostile = "<script>alert(1)</script>"
    told = {"node": hostile, "samples": 1, "squared_error_with": 0.5, "squared_error_without": 1.0}
    found = with_losses([2.0, 1.0], strategy=hostile)
    found |= {"contributions": [told]} if where == "contributions" else {where: {"n0": hostile}}
    page = page_of(tmp_path, found)
    assert hostile not in page
    assert html.escape(hostile) in page.partition(TITLE)[2]


@pytest.mark.parametrize("value", ["much", [1], {"n0": "much"}, {"n0": [1]}, {"n0": 10**400}])
def test_damaged_tables_are_refused_or_shown_as_they_are(tmp_path: Path, value: Any) -> None:
    """A report fails with what the command line says in one line, and leaves nothing behind."""
    (tmp_path / "out").mkdir()
    Results(CONFIG, MACHINE, [with_losses([2.0, 1.0], node_bytes=value)]).save(tmp_path)
    results = Results.load(tmp_path)
    with pytest.raises((ArithmeticError, AttributeError, LookupError, TypeError, ValueError)):
        write_report(tmp_path / "out", results)
    assert not any((tmp_path / "out").iterdir())
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 2
