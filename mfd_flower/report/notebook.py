"""Results as a notebook shows them: the tables of the report, without its plots."""

from __future__ import annotations

from mfd_flower.report import TEMPLATES
from mfd_flower.report.tables import tables_of
from mfd_flower.results import Results


def as_html(results: Results) -> str:
    """Return the tables of all scenarios; labels and names are shown as they are."""
    made = [found for pair in results.summary.items() for found in tables_of(*pair)]
    template = TEMPLATES.get_template("notebook.html.j2")
    return template.render(name=results.config["name"], runs=len(results.runs), tables=made)
