"""Write everything that a person reads from ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from mfd_flower.files import write_json, write_text
from mfd_flower.report.path import is_walk, path_map
from mfd_flower.report.plots import write_plots
from mfd_flower.report.tables import (
    PAYLOAD_HEADINGS,
    REACH_HEADINGS,
    heading,
    megabytes,
    payload_rows,
    reach_row,
    write_rounds_csv,
)
from mfd_flower.report.tree import version_tree


def write_report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write ``rounds.csv``, ``summary.json``, the plots, and ``report.html``, which opens offline.

    Returns
    -------
    Path
        Of the page.
    """
    write_rounds_csv(folder / "rounds.csv", results["runs"])
    plots = write_plots(folder, results)
    write_json(folder / "summary.json", short_form(results))
    first_seed = min((run["seed"] for run in results["runs"]), default=0)
    scenarios = []
    for name, summary in results["summary"].items():
        scenarios.append(
            {
                "heading": heading(name, summary),
                "reach": [reach_row(row) for row in summary["rows"] if row["same_payload"]]
                or [reach_row(row) for row in summary["rows"]],
                "payload": list(payload_rows(summary)),
                "costs": [cost_row(row) for row in summary["rows"]],
                "paths": [
                    (f"{run['strategy']}, seed {run['seed']}", path_map(run))
                    for run in results["runs"]
                    if run["scenario"] == name and run["seed"] == first_seed and is_walk(run)
                ],
                "trees": [
                    (f"{run['strategy']}, seed {run['seed']}", version_tree(run["versions"]))
                    for run in results["runs"]
                    if run["scenario"] == name and run["seed"] == first_seed and "versions" in run
                ],
                "figures": [
                    Markup(files[1].read_text(encoding="utf-8").partition("?>")[2])
                    for title, files in plots.items()
                    if title.rpartition(": ")[0] == name
                ],
            }
        )
    environment = Environment(loader=PackageLoader("mfd_flower.report", "."), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        results=results,
        scenarios=scenarios,
        reach_headings=REACH_HEADINGS,
        payload_headings=PAYLOAD_HEADINGS,
        cost_headings=COST_HEADINGS,
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def short_form(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is worth keeping where whole curves are too much: the answer and its setting."""
    runs = results["runs"]
    return {
        "name": results["config"]["name"],
        "margin": results["config"]["margin"],
        "seeds": sorted({run["seed"] for run in runs}),
        "runs": len(runs),
        "wall_seconds": sum(run["wall_seconds"] for run in runs),
        "machine": results["machine"],
        "summary": results["summary"],
    }


COST_HEADINGS = (
    "strategy",
    "payload",
    "wire",
    "of it control",
    "relayed by Flower's star",
    "virtual time",
    "energy",
    "compute",
    "peak memory of a node",
    "failed replies",
)


def cost_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one strategy under `COST_HEADINGS`, for its whole run."""
    return (
        row["strategy"],
        megabytes(row["total_payload"]),
        megabytes(row["total_wire"]),
        f"{100 * row['control_share']:.2g} %",
        megabytes(row["total_relay"]),
        f"{row['virtual_seconds']:.1f} s",
        f"{row['joules']:.1f} J",
        f"{row['flops'] / 1e9:.0f} GFLOP",
        megabytes(row["peak_node_bytes"]),
        str(row["failed_replies"]),
    )
