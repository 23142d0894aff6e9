"""A map that plays a run: where nodes and base stations are, and what was sent for training.

All of it follows from a run's record: who was sent to, by whom and when, and its settings, from
which the same world is made again. Where nodes are nowhere in particular they stand on a circle
around the edge server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.network.world import EDGE, Transfer, World
from mfd_flower.network.worlds import new_world

MOST_NODES = 200
MOST_MOVES = 2000
"""Of more a page would be too large to open; what comes first is shown."""
MOST_FRAMES = 150
"""Moments whose places are kept; in between nodes move on straight lines."""
SIDE_M = 100.0
"""Of the map where nothing has a place."""


def playable(run: Mapping[str, Any]) -> bool:
    """Tell whether a run's record says when what was sent."""
    return bool(run.get("sent_s")) and run["nodes"] <= MOST_NODES


def movie(title: str, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the page's script plays, in metres and virtual seconds; None without a world.

    ``moves`` are ``[sent, begun, from, to, Mbit/s]`` by number of the node; -1 - k is base station
    k, or the edge server where there are none.
    """
    try:
        config = RunConfig.from_flat(run["settings"])
        world = new_world(config.network, run["nodes"], config.seed)
    except ConfigError:
        return None
    end_s = max((point["virtual_seconds"] for point in run["points"]), default=0.0)
    times = _times(world, end_s)
    placed = world.places_m(0.0) is not None
    sites = world.sites_m if placed else np.full((1, 2), SIDE_M / 2)
    frames = [_places(world, run["nodes"], at_s) for at_s in times]
    corner = np.concatenate([sites, *frames]).max(axis=0) if len(sites) else frames[0].max(axis=0)
    curve = [[p["virtual_seconds"], p["accuracy"]] for p in run["points"]]
    return {
        "title": title,
        "nodes": [f"n{number}" for number in range(run["nodes"])],
        "placed": placed,
        "size": np.ceil(corner).tolist() if placed else [SIDE_M, SIDE_M],
        "sites": np.round(sites, 1).tolist(),
        "times": [round(at_s, 4) for at_s in times],
        "frames": [np.round(frame, 1).tolist() for frame in frames],
        "end": math.ceil(end_s * 1e4) / 1e4,
        "curve": [[round(at_s, 4), round(accuracy, 4)] for at_s, accuracy in curve],
        "moves": _moves(world, run, placed),
    }


def _times(world: World, end_s: float) -> Sequence[float]:
    """Return moments between which places change: one where nobody moves."""
    if world.places_m(0.0) is None or math.isinf(step_s := world.next_change_s(0.0)) or not end_s:
        return [0.0]
    return np.linspace(0.0, end_s, max(2, min(MOST_FRAMES, 1 + math.ceil(end_s / step_s)))).tolist()


def _places(world: World, nodes: int, at_s: float) -> NDArray[np.float64]:
    found = world.places_m(at_s)
    if found is not None:
        return found
    angles = 2 * np.pi * np.arange(nodes) / nodes - np.pi / 2
    return SIDE_M * (0.5 + 0.42 * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _moves(world: World, run: Mapping[str, Any], placed: bool) -> list[list[float]]:
    found = []
    lists = zip(run["sent_s"], run["begun_s"], run["sources"], run["visits"], strict=True)
    for sent_s, begun_s, source, node in list(lists)[:MOST_MOVES]:
        transfer = Transfer(source or EDGE, node, "d2d" if source else "down")
        rate_bps = float(world.rates_bps([transfer], sent_s)[0])
        here = int(source[1:]) if source else -1 - (world.site_of(node, sent_s) if placed else 0)
        times = [round(sent_s, 4), round(begun_s, 4)]
        found.append([*times, here, int(node[1:]), round(rate_bps / 1e6, 3)])
    return found
