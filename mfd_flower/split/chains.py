"""Members in a row as one cluster: how fast the row is, what it lacks, and what a plan is worth.

GaisNet's second decision, "how to cluster" (arXiv 2401.02668, section IV), as arrays that the
searches of `mfd_flower.split.search` work on. Members are numbers 0 to n - 1 here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.split.cuts import Numbers, reach

Rows = NDArray[np.intp]
CHUNK_NUMBERS = 2_000_000
"""Numbers in the largest array of one batch of rows: 16 MB."""


@dataclass(frozen=True)
class Chains:
    """An instance of the clustering problem.

    Attributes
    ----------
    costs, memory, cut_bytes : ndarray
        FLOPs and bytes of each block, ``(blocks,)``, and bytes over each cut, ``(blocks - 1,)``.
    speeds, limits : ndarray
        FLOPs per second and bytes of each member, ``(members,)``.
    links : ndarray
        Bits per second between each two members, ``(members, members)``, 0 where they are not
        linked.
    values : ndarray
        Data value of each member as first of a cluster, ``(members,)``, 0 if it cannot be one.
    size, number : int
        Members of a cluster, and clusters.
    closed : bool
        The last member of a cluster must be linked to its first.
    """

    costs: Numbers
    memory: Numbers
    cut_bytes: Numbers
    speeds: Numbers
    limits: Numbers
    links: Numbers
    values: Numbers
    size: int
    number: int
    closed: bool

    def score(self, rows: Rows) -> tuple[NDArray[np.intp], Numbers]:
        """Return how many requirements each row breaks, and its step in seconds with the best cuts.

        A row is a cluster's members in order, ``(rows, size)``. Each missing link counts, a first
        member without data, and blocks that do not fit into memory. A row with either of the first
        two cannot run, so its cuts are not looked for: it counts as not fitting too, its seconds
        are 0.
        """
        broken = (self.links[rows[:, :-1], rows[:, 1:]] == 0).sum(axis=1)
        broken += self.values[rows[:, 0]] == 0
        if self.closed and self.size > 1:
            broken += self.links[rows[:, -1], rows[:, 0]] == 0
        seconds = np.full(len(rows), np.inf)
        whole = np.flatnonzero(broken == 0)
        step = max(1, CHUNK_NUMBERS // (len(self.costs) - self.size + 1) ** 2)
        for start in range(0, len(whole), step):
            part = whole[start : start + step]
            row = rows[part]
            tables = reach(
                self.costs,
                self.memory,
                self.cut_bytes,
                self.speeds[row],
                self.limits[row],
                self.links[row[:, :-1], row[:, 1:]],
            )
            seconds[part] = tables[-1][:, -1]
        unfit = np.isinf(seconds)
        return broken + unfit, np.where(unfit, 0.0, seconds)


def objective(slowest_s: ArrayLike, value: ArrayLike) -> Numbers:
    """Return seconds of the slowest step over the data value that all clusters feed in it."""
    slowest, fed = np.broadcast_arrays(np.asarray(slowest_s, dtype=float), value)
    return np.divide(slowest, fed, out=np.full(slowest.shape, np.inf), where=fed > 0)
