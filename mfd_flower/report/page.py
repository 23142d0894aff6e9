"""Write everything that a person reads from ``results.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from mfd_flower.files import write_json, write_text
from mfd_flower.report import TEMPLATES
from mfd_flower.report.path import is_walk, path_map
from mfd_flower.report.plots import write_plots
from mfd_flower.report.tables import summary_csv, tables_of
from mfd_flower.report.tree import version_tree
from mfd_flower.results import SCHEMA, Results


def write_report(folder: Path | str, results: Results) -> Path:
    """Write the tables, the plots, and ``report.html``, which opens offline.

    Beside the page, whose path is returned: ``rounds.csv`` (one line a measured point),
    ``summary.csv`` (one line a strategy and scenario), ``summary.json`` (the answer and its
    setting, without the curves).
    """
    folder, summary, runs = Path(folder), results.summary, results.runs
    write_text(folder / "rounds.csv", results.frame().to_csv(index=False))
    write_text(folder / "summary.csv", summary_csv(summary))
    write_json(folder / "summary.json", short_form(results))
    plots = write_plots(folder, results)
    first_seed = min((run["seed"] for run in runs), default=0)
    scenarios = []
    for name, scenario in summary.items():
        here = [run for run in runs if run["scenario"] == name and run["seed"] == first_seed]
        titled = [(f"{run['strategy']}, seed {run['seed']}", run) for run in here]
        drawn = [svg.read_text(encoding="utf-8").partition("?>")[2] for _, svg in plots[name]]
        scenarios.append(
            {
                "name": name,
                "tables": list(tables_of(name, scenario)),
                "paths": [(title, path_map(run)) for title, run in titled if is_walk(run)],
                "trees": [(t, version_tree(r["versions"])) for t, r in titled if "versions" in r],
                "figures": list(map(Markup, drawn)),
            }
        )
    path, template = folder / "report.html", TEMPLATES.get_template("page.html.j2")
    write_text(path, template.render(results=results, scenarios=scenarios))
    return path


def short_form(results: Results) -> dict[str, Any]:
    """Return what is worth keeping where whole curves are too much: the answer and its setting."""
    return {
        "schema": SCHEMA,
        "name": results.config["name"],
        "margin": results.config["margin"],
        "seeds": sorted({run["seed"] for run in results.runs}),
        "runs": len(results.runs),
        "wall_seconds": sum(run["wall_seconds"] for run in results.runs),
        "machine": results.machine,
        "summary": results.summary,
    }
