"""The path of a walk on the map of nodes, hop by hop, as one SVG that answers to the pointer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from jinja2 import Template
from markupsafe import Markup

SIZE_PX = 420
RADIUS_PX = 160

TEMPLATE = Template(
    """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ size }} {{ size }}" width="{{ size }}">
{% for hop in hops %}<path d="{{ hop.curve }}" fill="none" stroke="{{ hop.colour }}"
 stroke-width="2" stroke-opacity="0.7"><title>{{ hop.says }}</title></path>
{% endfor %}{% for node in nodes %}<circle cx="{{ node.x }}" cy="{{ node.y }}" r="{{ node.r }}"
 fill="#fff" stroke="#333" stroke-width="1.5"><title>{{ node.says }}</title></circle>
<text x="{{ node.x }}" y="{{ node.y + 4 }}" font-size="11" text-anchor="middle"
 pointer-events="none">{{ node.name }}</text>
{% endfor %}</svg>""",
    autoescape=True,
)


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
    return Markup(TEMPLATE.render(size=SIZE_PX, hops=hops, nodes=nodes))


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
