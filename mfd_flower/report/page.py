"""Write everything that a person reads from ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mfd_flower.files import to_json, write_bytes, write_text
from mfd_flower.report import TEMPLATES
from mfd_flower.report.map import movie, playable
from mfd_flower.report.of_nodes import GAVE, GAVE_AWAY, GIVES_AND_GETS, gives_and_gets
from mfd_flower.report.path import is_walk, path_map
from mfd_flower.report.plots import draw_plots
from mfd_flower.report.tables import summary_csv, tables_of
from mfd_flower.report.tree import version_tree
from mfd_flower.results import SCHEMA, Results


def write_report(folder: Path | str, results: Results) -> Path:
    """Write the tables, the plots, and ``report.html``, which opens offline.

    Beside the page, whose path is returned: ``rounds.csv`` (one line a measured point),
    ``summary.csv`` (one line a strategy and scenario), ``summary.json`` (the answer and its
    setting, without the curves).
    """
    # All of it is made before anything is written: what cannot be shown leaves no half of a report.
    folder, summary, runs = Path(folder), results.summary, results.runs
    texts = {
        "rounds.csv": results.frame().to_csv(index=False),
        "summary.csv": summary_csv(summary),
        "summary.json": to_json(short_form(results)) + "\n",
    }
    plots = draw_plots(results)
    first_seed = min((run["seed"] for run in runs), default=0)
    scenarios = []
    for name, scenario in summary.items():
        here = [run for run in runs if run["scenario"] == name and run["seed"] == first_seed]
        titled = [(f"{run['strategy']}, seed {run['seed']}", run) for run in here]
        drawn = [svg.decode().partition("?>")[2] for _, svg in plots[name].values()]
        scenarios.append(
            {
                "name": name,
                "tables": list(tables_of(name, scenario)),
                "paths": [(title, path_map(run)) for title, run in titled if is_walk(run)],
                "movies": [m for t, r in titled if playable(r) and (m := movie(t, r))],
                "trees": [(t, version_tree(r["versions"])) for t, r in titled if "versions" in r],
                "gave": [(t, r["contributions"]) for t, r in titled if "contributions" in r],
                "given": [(t, found) for t, r in titled if (found := gives_and_gets(r))],
                "leaks": [(t, leaks_of(r)) for t, r in titled if r.get("leakage")],
                "drawn": [(t, r["drawn"]) for t, r in titled if r.get("drawn")],
                "figures": list(map(Markup, drawn)),
            }
        )
    template = TEMPLATES.get_template("page.html.j2")
    texts["report.html"] = template.render(
        results=results,
        scenarios=scenarios,
        gave=GAVE,
        gives_and_gets=GIVES_AND_GETS,
        gave_away=GAVE_AWAY,
    )
    for file, content in texts.items():
        write_text(folder / file, content)
    for figures in plots.values():
        for stem, (png, svg) in figures.items():
            write_bytes(folder / f"{stem}.png", png)
            write_bytes(folder / f"{stem}.svg", svg)
    return folder / "report.html"


def leaks_of(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a node of what its generator gives away."""
    return [{"node": name, **found} for name, found in run["leakage"].items()]


def short_form(results: Results) -> dict[str, Any]:
    """Return what is worth keeping where whole curves are too much: the answer and its setting."""
    return {
        "schema": SCHEMA,
        "name": results.config["name"],
        "margin": results.config["margin"],
        "metric": results.config["metric"],
        "seeds": sorted({run["seed"] for run in results.runs}),
        "runs": len(results.runs),
        "wall_seconds": sum(run["wall_seconds"] for run in results.runs),
        "machine": results.machine,
        "summary": results.summary,
    }
