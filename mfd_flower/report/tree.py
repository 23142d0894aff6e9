"""The versions of a model as a tree: who made which from which, and which ones were refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mfd_flower.report import TEMPLATES

STEP_PX = 26
LANE_PX = 64
BRANCH_PX = 26
MARGIN_PX = 24

ACCEPTED, REFUSED, FIRST = "#2b6c8f", "#c0392b", "#333333"


def version_tree(versions: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the `versions` of a run.

    Hops go from left to right, one lane a walker, refused versions below it with a cross. Pointing
    at a version tells its entry.
    """
    walkers = sorted({version["walker"] for version in versions})
    lanes = {walker: MARGIN_PX + LANE_PX * place for place, walker in enumerate(walkers)}
    nodes, edges = [], []
    # All walkers begin from one version, so a version is known by its chain too.
    places: dict[tuple[str, str], tuple[int, int]] = {}
    anywhere: dict[str, tuple[int, int]] = {}
    for version in versions:
        walker, refused = version["walker"], bool(version["reason"])
        x = MARGIN_PX + STEP_PX * version["hop"]
        y = lanes[walker] + (BRANCH_PX if refused else 0)
        colour = REFUSED if refused else ACCEPTED if version["parents"] else FIRST
        for parent in version["parents"]:
            if start := places.get((walker, parent)) or anywhere.get(parent):
                line = f"M{start[0]},{start[1]} L{x},{y}"
                edges.append({"line": line, "colour": colour, "refused": refused})
        places[walker, version["version"]] = anywhere[version["version"]] = (x, y)
        fill = "#fff" if version["parents"] else FIRST
        mark = {"x": x, "y": y, "colour": colour, "fill": fill, "refused": refused}
        nodes.append({**mark, "says": says(version)})
    width = MARGIN_PX * 2 + STEP_PX * max((v["hop"] for v in versions), default=0)
    height = MARGIN_PX * 2 + LANE_PX * max(0, len(walkers) - 1) + BRANCH_PX
    sizes = {"width": width, "height": height}
    return Markup(TEMPLATES.get_template("tree.svg.j2").render(**sizes, nodes=nodes, edges=edges))


def says(version: Mapping[str, Any]) -> str:
    """Return a version's entry in words."""
    made = "founded" if not version["parents"] else "merged" if version["parents"][1:] else "made"
    parts = [f"hop {version['hop']}, {made} by {version['author']}"]
    known = [version["accuracy_before"], version["accuracy_after"]]
    if shown := [f"{value:.3f}" for value in known if value is not None]:
        parts.append(f"accuracy there {' -> '.join(shown)}")
    if version["samples"]:
        parts.append(f"{version['samples']} samples")
    parts.append(f"version {version['version']}")
    if version["reason"]:
        parts.append(f"refused by {version['refused_by']} ({version['reason']})")
    return ", ".join(parts)
