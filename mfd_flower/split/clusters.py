"""Whom to join into clusters for split learning, and in which order.

GaisNet's second decision, "how to cluster" (arXiv 2401.02668, section IV): from compute, memory,
who can reach whom, and the data of the first member, which alone feeds samples in.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.routing.interest import HALF_SAMPLES
from mfd_flower.split.cuts import Blocks, Numbers, block_numbers, numbers, reach

Rows = NDArray[np.intp]
"""Members by number, ``(rows, size)``: each row is a cluster in the order of its stages."""
Key = tuple[int, float, int]
"""Requirements broken, the objective, clusters as slow as the slowest; less is better."""
EXACT_MEMBERS, EXACT_ROWS = 16, 50_000
"""The exact search takes seconds for so many members and ordered clusters of them."""
CHUNK_NUMBERS = 2_000_000
"""Numbers in the largest array of one batch of rows: 16 MB."""


@dataclass(frozen=True)
class Member:
    """What a planner knows of a node."""

    address: str
    flops_per_s: float
    memory_bytes: float
    """For its stage; may be infinite."""
    label_counts: tuple[float, ...]
    """Samples of each class that it can feed in; without any it is not put first."""


@dataclass(frozen=True)
class Cluster:
    """A plan for one cluster."""

    addresses: tuple[str, ...]
    """Members in the order of their stages; the first has data and Emb, the last the head."""
    step_s: float
    """Seconds of its slowest stage or link under the best cuts (`plan_cuts`)."""


def plan_clusters(
    members: Sequence[Member],
    links: Mapping[str, Mapping[str, float]],
    *,
    number: int,
    size: int,
    costs: Sequence[float],
    memory: Sequence[float] | None = None,
    cut_bytes: Sequence[float] | None = None,
    closed: bool = False,
    solver: Literal["exact", "local-search"] | None = None,
) -> list[Cluster]:
    r"""Form clusters and order them so that a unit of useful data is fed in as fast as can be.

    .. math::

        \min \frac{\max_k T_k}{\sum_k v(\mathit{first}_k)}

    with :math:`T_k` the `step_s` of cluster k and :math:`v` the `data_value` of a member: clusters
    work side by side, and the slowest keeps the others waiting. Members that no cluster needs stay
    idle. Returns the clusters by the place of their first in `members`; ConfigError if an argument
    is out of range, or no such clusters were found.

    Parameters
    ----------
    members : sequence of Member
        Their order settles nothing but ties.
    links : mapping
        ``links[a][b]`` is the rate from a to b in bits per second, missing or 0 where b is out of
        reach. Two members are linked if both directions are, at the slower of the two, since
        gradients go back.
    number, size : int
        Clusters, and members of each, at most as many as there are blocks.
    costs, memory, cut_bytes : sequence of float
        Of blocks, as `plan_cuts` takes them. Without `memory` no memory limits; without `cut_bytes`
        links take no time.
    closed : bool
        The last member must be linked to the first, for labels or results.
    solver : {"exact", "local-search"}, optional
        Without it exact where that takes seconds. `experiments/bench/clusters.py` measures how far
        from exact the local search ends.
    """
    names, count = [member.address for member in members], len(members)
    if not 1 <= size <= len(costs):
        raise ConfigError("size", size, f"1 to {len(costs)}, at least one block a member")
    if not 1 <= number <= count // size:
        accepted = f"1 to {count // size} clusters of {size} from {count} members"
        raise ConfigError("clusters", number, accepted)
    few = count <= EXACT_MEMBERS and math.perm(count, size) <= EXACT_ROWS
    if solver == "exact" and not few:
        raise ConfigError("solver", solver, f"too many members: {count}, in clusters of {size}")
    each_way = [[links.get(a, {}).get(b, 0.0) for b in names] for a in names]
    rates = np.minimum(each_way, np.transpose(each_way))
    np.fill_diagonal(rates, np.inf)
    blocks = block_numbers(costs, memory, cut_bytes)
    speeds = numbers("flops_per_s", [m.flops_per_s for m in members], count, above_zero=True)
    limits = numbers("memory_bytes", [m.memory_bytes for m in members], count, finite=False)
    values = np.array([data_value(member.label_counts) for member in members])
    problem = _Problem(blocks, speeds, limits, rates, values, number, size, closed)
    rows = _local(problem) if solver == "local-search" or not few else _exact(problem)
    if rows is None:
        pairs, fed = (int((rates > 0).sum()) - count) // 2, int((values > 0).sum())
        there = f"{pairs} pairs of {count} members are linked, {fed} members have samples"
        there += f", all blocks need {blocks[1].sum():.0f} bytes"
        raise ConfigError("clusters", number, f"no such clusters of {size} found: {there}")
    rows = rows[np.argsort(rows[:, 0])]
    steps_s = problem.score(rows)[1].tolist()
    return [Cluster(tuple(names[m] for m in row), s) for row, s in zip(rows, steps_s, strict=True)]


def data_value(label_counts: Sequence[float]) -> float:
    r"""Return what samples of each class are worth to a cluster that they are fed to, 0 to 1.

    .. math::

        v = \frac{n}{n + n_0} \cdot \frac{e^{H(p)}}{C}

    with :math:`n` the samples, :math:`n_0` = 100, :math:`H(p)` the entropy of their label shares in
    nats and :math:`C` the number of classes. The second factor is the share of classes that are
    there if they are there evenly; GaisNet's Table III shows accuracy to follow that.
    """
    counts = np.asarray(label_counts, dtype=float)
    if not counts.any():
        return 0.0
    shares = counts[counts > 0] / counts.sum()
    evenness = math.exp(-(shares @ np.log(shares))) / counts.size
    return float(counts.sum() / (counts.sum() + HALF_SAMPLES) * evenness)


@dataclass(frozen=True)
class _Problem:
    model: Blocks
    speeds: Numbers
    limits: Numbers
    rates: Numbers
    """Bits per second, ``(members, members)``; 0 where they are not linked."""
    values: Numbers
    """Data value of each as first of a cluster, ``(members,)``; 0 if it cannot be one."""
    number: int
    size: int
    closed: bool

    def score(self, rows: Rows) -> tuple[NDArray[np.intp], Numbers]:
        """Return how many requirements each row breaks, and the seconds of its step, 0 if any.

        Missing links count, a first member without data, and blocks that do not fit into memory.
        """
        links = self.rates[rows[:, :-1], rows[:, 1:]]
        broken = (links == 0).sum(axis=1) + (self.values[rows[:, 0]] == 0)
        if self.closed:
            broken += self.rates[rows[:, -1], rows[:, 0]] == 0
        seconds = np.full(len(rows), np.inf)
        whole = np.flatnonzero(broken == 0)
        table_numbers = len(whole) * (len(self.model[0]) - self.size + 1) ** 2
        for part in np.array_split(whole, 1 + table_numbers // CHUNK_NUMBERS):
            workers = (self.speeds[rows[part]], self.limits[rows[part]], links[part])
            seconds[part] = reach(self.model, workers)[-1][:, -1]
        unfit = np.isinf(seconds)
        return broken + unfit, np.where(unfit, 0.0, seconds)

    def rows(self, plan: Rows) -> Rows:
        """Return the clusters of a plan: all members in a row, those of the clusters first."""
        return plan[: self.number * self.size].reshape(self.number, self.size)

    def keys(self, broken: Rows, seconds: Numbers, firsts: Rows) -> list[Key]:
        """Return what plans are ordered by, from what their clusters score, ``(plans, number)``."""
        fed, slowest = self.values[firsts].sum(axis=1), seconds.max(axis=1)
        objective = np.divide(slowest, fed, out=np.full(len(fed), np.inf), where=fed > 0)
        tied = (seconds >= slowest[:, None] * (1 - 1e-9)).sum(axis=1)
        columns = (broken.sum(axis=1), objective, tied)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def _exact(problem: _Problem) -> Rows | None:
    """Find the best clusters of all, by a dynamic program over the sets of members still free."""
    members = range(len(problem.speeds))
    rows = np.array(list(itertools.permutations(members, problem.size)))
    broken, seconds = problem.score(rows)
    sets = np.bitwise_or.reduce(1 << rows, axis=1)
    slow_to_fast = np.lexsort((-seconds, broken == 0))[(broken > 0).sum() :]
    # Of the same members with the same one first only the fastest order matters, the last here.
    fastest = {(int(sets[i]), int(rows[i, 0])): i for i in slow_to_fast}
    with_lowest = defaultdict(list)
    for (cluster, first), i in fastest.items():
        with_lowest[cluster & -cluster].append((cluster, seconds[i], problem.values[first], i))

    @functools.cache
    def front(free: int, left: int) -> list[tuple[float, float, list[int]]]:
        """Return the plans of which none is both faster and worth more: seconds, value, rows."""
        if not left or free.bit_count() < left * problem.size:
            return [] if left else [(0.0, 0.0, [])]
        lowest = free & -free
        plans = list(front(free ^ lowest, left))
        for cluster, step_s, value, i in with_lowest[lowest]:
            if cluster & free == cluster:
                plans += [
                    (max(step_s, slowest_s), value + others, [i, *rest])
                    for slowest_s, others, rest in front(free ^ cluster, left - 1)
                ]
        kept: list[tuple[float, float, list[int]]] = []
        for plan in sorted(plans, key=lambda plan: (plan[0], -plan[1])):
            if not kept or plan[1] > kept[-1][1]:
                kept.append(plan)
        return kept

    plans = front((1 << len(members)) - 1, problem.number)
    return rows[min(plans, key=lambda plan: plan[0] / plan[1])[2]] if plans else None


def _local(problem: _Problem) -> Rows | None:
    """Exchange members while that helps, swap a few at random, and again.

    Iterated local search: Lourenço, Martin and Stützle 2003 (arXiv math/0102188).
    """
    rng = np.random.default_rng(0)
    key, plan = _descended(problem, _grown(problem, rng))
    for _ in range(max(10, 1200 // max(12, len(plan)))):
        kicked = plan.copy()
        for _ in range(4):
            pair = [rng.integers(problem.number * problem.size), rng.integers(len(plan))]
            kicked[pair] = kicked[pair[::-1]]
        found = _descended(problem, kicked)
        if found[0] <= key:
            key, plan = found
    return problem.rows(plan) if key[0] == 0 else None


def _grown(problem: _Problem, rng: np.random.Generator) -> Rows:
    """Grow clusters along links: next is who has the fewest free neighbours, so none is cut off.

    That is Warnsdorff's rule for a knight's tour.
    """
    joined = problem.rates > 0
    free = np.ones(len(joined), dtype=bool)
    plan: list[int] = []
    for place in range(problem.number * problem.size):
        near = free & joined[plan[-1]] if place % problem.size else free
        choices = np.flatnonzero(near if near.any() else free)
        ways = (joined[choices] & free).sum(axis=1)
        plan.append(int(choices[np.lexsort((rng.random(len(choices)), ways))[0]]))
        free[plan[-1]] = False
    return np.array([*plan, *np.flatnonzero(free)], dtype=np.intp)


def _descended(problem: _Problem, plan: Rows) -> tuple[Key, Rows]:
    """Take the best exchange of two members until none is better; returns the key and the plan.

    Exchanges start at the slowest cluster, at broken ones before that.
    """
    size, number = problem.size, problem.number
    while True:
        rows = problem.rows(plan)
        broken, seconds = problem.score(rows)
        (key,) = problem.keys(broken[None], seconds[None], rows[None, :, 0])
        for cluster in np.lexsort((-seconds, -broken)):
            own = np.arange(cluster * size, (cluster + 1) * size)
            here, there = np.repeat(own, len(plan)), np.tile(np.arange(len(plan)), size)
            plans, each = np.tile(plan, (len(here), 1)), np.arange(len(here))
            plans[each, here], plans[each, there] = plan[there], plan[here]
            rows = plans[:, : number * size].reshape(-1, number, size)
            now_broken, now_s = np.tile(broken, (len(each), 1)), np.tile(seconds, (len(each), 1))
            for row in (cluster, np.where(there < number * size, there // size, cluster)):
                now_broken[each, row], now_s[each, row] = problem.score(rows[each, row])
            keys = problem.keys(now_broken, now_s, rows[:, :, 0])
            best = min(each, key=keys.__getitem__)
            if keys[best] < key:
                plan = plans[best]
                break
        else:
            return key, plan
