"""The path of a walk on the map of nodes, hop by hop, as one SVG that answers to the pointer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup

from mfd_flower.report import TEMPLATES

SIZE_PX = 420
RADIUS_PX = 160


def is_walk(run: Mapping[str, Any]) -> bool:
    """Tell whether nodes sent what was trained to each other, so that its visits form paths."""
    return run["nodes"] > 1 and any(run.get("sources", ()))


def path_map(run: Mapping[str, Any]) -> Markup:
    """Draw where a run for which `is_walk` holds went.

    Nodes stand on a circle, larger the more often visited; hops go from dark to light. Pointing at
    a hop tells its number, accuracy and bytes.
    """
    visits: Sequence[str] = run["visits"]
    points = {point["step"]: point for point in run["points"]}
    count = Counter(visits)
    places = {f"n{i}": _place(i, run["nodes"]) for i in range(run["nodes"])}
    colours = matplotlib.colormaps["viridis"]
    hops = []
    for number, (source, destination) in enumerate(zip(run["sources"], visits, strict=True), 1):
        if not source or number == 1:
            continue
        says = f"hop {number}: {source} to {destination}"
        if point := points.get(number):
            so_far = point["bytes"]["wire"]
            says += f", accuracy {point['accuracy']:.3f}, {so_far} bytes so far"
        colour = matplotlib.colors.to_hex(colours(number / len(visits)))
        curve = _curve(places[source], places[destination])
        hops.append({"curve": curve, "colour": colour, "says": says})
    most = max(count.values())
    nodes = []
    for name, (x, y) in places.items():
        radius, says = round(12 + 8 * count[name] / most, 1), f"{name}: {count[name]} visits"
        nodes.append({"name": name, "x": x, "y": y, "r": radius, "says": says})
    drawn = TEMPLATES.get_template("path.svg.j2").render(size=SIZE_PX, hops=hops, nodes=nodes)
    return Markup(drawn)


def _place(index: int, nodes: int) -> tuple[float, float]:
    angle = 2 * math.pi * index / nodes - math.pi / 2
    x, y = (SIZE_PX / 2 + RADIUS_PX * of(angle) for of in (math.cos, math.sin))
    return round(x, 1), round(y, 1)


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Bend each way a little to its left, so that there and back are two lines."""
    (x0, y0), (x1, y1) = start, end
    if start == end:
        return f"M{x0},{y0} c-30,-40 30,-40 0,0"
    x, y = (x0 + x1) / 2 - (y1 - y0) * 0.12, (y0 + y1) / 2 + (x1 - x0) * 0.12
    return f"M{x0},{y0} Q{x:.1f},{y:.1f} {x1},{y1}"
