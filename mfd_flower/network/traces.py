"""Places that were recorded: a CSV file with a line for each node and moment."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.network.tracks import Floats

COLUMNS = ("node", "time_s", "x_m", "y_m")


class Trace:
    """Places between recorded ones, on a straight line.

    Before its first moment a node is at its first place, behind its last one at its last.
    """

    def __init__(self, moments: list[tuple[Floats, Floats]]) -> None:
        self._moments = moments

    @classmethod
    def load(cls, path: Path, nodes: int, longest_gap_s: float = 60.0) -> Trace:
        """Read a file with the columns ``node,time_s,x_m,y_m``; nodes are numbered from 0.

        Raises
        ------
        ConfigError
            For a file, line or number that is not such; a node that is missing; a gap of more than
            `longest_gap_s` between two moments of a node, in which nobody knows where it was.
        """
        rows: list[list[tuple[float, float, float]]] = [[] for _ in range(nodes)]
        try:
            with path.open(encoding="utf-8", newline="") as file:
                lines = csv.reader(file)
                if tuple(next(lines, ())) != COLUMNS:
                    raise ConfigError("trace", str(path), f"first line: {','.join(COLUMNS)}")
                for number, line in enumerate(lines, 2):
                    node, *place = _numbers(path, number, line, nodes)
                    rows[int(node)].append((place[0], place[1], place[2]))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError("trace", str(path), f"not readable ({error})") from error
        moments = []
        for node, found in enumerate(rows):
            if not found:
                raise ConfigError("trace", str(path), f"no line of node {node}")
            table = np.array(sorted(found))
            steps = np.diff(table[:, 0])
            if (steps == 0).any():
                twice = table[:-1][steps == 0][0, 0]
                raise ConfigError("trace", str(path), f"node {node} is there twice at {twice:g} s")
            if (steps > longest_gap_s).any():
                where = int(np.argmax(steps > longest_gap_s))
                gap = f"{table[where, 0]:g} to {table[where + 1, 0]:g} s"
                reason = f"node {node} has a gap from {gap}; accepted: at most {longest_gap_s:g} s"
                raise ConfigError("trace", str(path), reason)
            moments.append((table[:, 0], table[:, 1:]))
        return cls(moments)

    def places_m(self, at_s: float) -> Floats:
        """Return places ``(nodes, 2)``."""
        return np.array(
            [
                [np.interp(at_s, times, places[:, axis]) for axis in (0, 1)]
                for times, places in self._moments
            ]
        )


def _numbers(path: Path, number: int, line: list[str], nodes: int) -> list[float]:
    try:
        found = [float(word) for word in line]
    except ValueError:
        found = []
    if len(found) != len(COLUMNS) or not np.isfinite(found).all() or found[1] < 0:
        said = f"line {number} is no {','.join(COLUMNS)} with times from 0 on"
        raise ConfigError("trace", str(path), said)
    if found[0] not in range(nodes):
        raise ConfigError("trace", str(path), f"line {number}: node must be 0 to {nodes - 1}")
    return found
