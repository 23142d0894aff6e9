"""Tables, plots and one self-contained HTML page from measured results."""

from jinja2 import Environment, PackageLoader

FILES = (
    *("report.html", "rounds.csv", "summary.csv", "summary.json"),
    *(f"{kind}-[0-9]*.{end}" for kind in ("accuracy", "bytes", "visits") for end in ("png", "svg")),
)
"""Patterns of what a report consists of."""
TEMPLATES = Environment(loader=PackageLoader("mfd_flower.report", "."), autoescape=True)
