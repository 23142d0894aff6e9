"""In a notebook results are tables, whatever labels hold; the example is kept without outputs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mfd_flower.report.columns import TABLES
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run
from tests.report.test_columns import RESULTS

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


class Page(HTMLParser):
    """Which tags a page has, and the text of each cell and title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts = [""]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


PLAIN = Page(RESULTS._repr_html_())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1))
@example("<script>alert(1)</script>")
@example('"><img src=x onerror=alert(1)>')
@example("</td></table><b>")
@example("{{ 7 * 7 }} &amp; {% raw %}")
def test_a_name_is_text_wherever_it_stands(name: str) -> None:
    runs = [run("fedavg", curve([0.1, 0.9])), run(name, curve([0.1, 0.9]))]
    config = {"name": name, "margin": 0.0, "metric": "accuracy"}
    named = Results(config, {}, [each | {"scenario": name} for each in runs])
    page = Page(named._repr_html_())
    assert page.tags <= PLAIN.tags
    assert page.attributes <= {"title"}
    assert page.texts.count(name) >= 2
    assert any(text.startswith(f"{name}: wire to accuracy") for text in page.texts)


def test_it_has_the_tables_of_the_report_and_the_rest_folded() -> None:
    html = RESULTS._repr_html_()
    assert html.count("<table>") == html.count("</table>") > len(TABLES) - 3
    assert html.count("<details>") == html.count("<table>") - sum(t.brief for t in TABLES)
    assert "<td>walk full</td>" in html
    assert "test</strong>, 4 runs" in html


def test_a_comparison_without_a_run_shows_its_name() -> None:
    empty = Results({"name": "none yet", "margin": 0.0, "metric": "accuracy"}, {}, [])
    assert "none yet</strong>, 0 runs" in empty._repr_html_()


@pytest.mark.parametrize("field", ["outputs", "execution_count"])
def test_the_example_is_kept_without_what_it_showed(field: str) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell[field] for cell in cells if cell["cell_type"] == "code")
