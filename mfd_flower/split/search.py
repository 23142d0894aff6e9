"""Two ways to form clusters: every partition for few members, exchanges of members for many.

Both return the members of each cluster in order, ``(number, size)``, or None if they find none.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict

import numpy as np

from mfd_flower.split.chains import Chains, Rows, objective
from mfd_flower.split.cuts import Numbers

Front = list[tuple[float, float, tuple[tuple[int, ...], ...]]]
"""Plans of which none is both faster and worth more than another: seconds, value, rows."""
TIE = 1e-9
"""Relative difference under which two times are the same."""
Key = tuple[int, float, int]
"""Requirements broken, the objective, clusters as slow as the slowest; less is better."""
STARTS = 4
"""Descents from different clusters."""
REPLANS = 12
"""Groups of clusters that are planned anew exactly, one after the other."""
REPLAN_ROWS = 5040
"""Ordered clusters among such a group: 10 members in clusters of 4, 12 in clusters of 3."""


def exact_search(chains: Chains, slowest_s: float = 0.0, value: float = 0.0) -> Rows | None:
    """Find the best clusters of all, by a dynamic program over the sets of members still free.

    `slowest_s` and `value` are what clusters outside this search add to the objective. Work and
    memory grow exponentially with the members.
    """
    members, values = len(chains.speeds), chains.values
    rows = _linked_rows(chains)
    broken, seconds = chains.score(rows)
    rows, seconds = rows[broken == 0], seconds[broken == 0]
    clusters = np.bitwise_or.reduce(1 << rows, axis=1)
    order = np.lexsort((seconds, rows[:, 0], clusters))
    # Of the same members with the same one first, only the fastest order matters.
    _, fastest = np.unique(np.stack([clusters, rows[:, 0]])[:, order], axis=1, return_index=True)
    plans: dict[int, Front] = defaultdict(list)
    for index in order[fastest].tolist():
        row = tuple(rows[index].tolist())
        plans[int(clusters[index])].append((float(seconds[index]), float(values[row[0]]), (row,)))
    by_lowest: dict[int, list[tuple[int, Front]]] = defaultdict(list)
    for cluster, found in plans.items():
        by_lowest[cluster & -cluster].append((cluster, _front(found)))

    @functools.cache
    def best(free: int, left: int) -> Front:
        if left == 0:
            return [(slowest_s, value, ())]
        if free.bit_count() < left * chains.size:
            return []
        lowest = free & -free
        found = list(best(free ^ lowest, left))
        for cluster, options in by_lowest[lowest]:
            if cluster & ~free == 0:
                found += [
                    (max(slowest, step_s), total + worth, row + rest)
                    for slowest, total, rest in best(free ^ cluster, left - 1)
                    for step_s, worth, row in options
                ]
        return _front(found)

    front = best((1 << members) - 1, chains.number)
    if not front:
        return None
    return np.array(min(front, key=lambda plan: float(objective(plan[0], plan[1])))[2])


def local_search(chains: Chains, seed: int) -> Rows | None:
    """Exchange members while that helps, from several starts; then plan some clusters anew."""
    rng = np.random.default_rng(seed)
    ends = []
    for _ in range(STARTS):
        key, places = _descend(chains, _grown(chains, rng))
        for turn in range(REPLANS):
            changed = _replanned(chains, places, rng, worst=turn % 2 == 0)
            if (found := _key_of(chains, changed)) < key:
                key, places = found, changed
        ends.append((key, places))
    key, places = min(ends, key=lambda end: end[0])
    return _rows(chains, places) if key[0] == 0 else None


def _linked_rows(chains: Chains) -> Rows:
    """Return all rows of `size` members of which each is linked to the next."""
    joined = chains.links > 0
    rows = np.arange(len(joined), dtype=np.intp)[:, None]
    for _ in range(chains.size - 1):
        onward = joined[rows[:, -1]]
        onward[np.arange(len(rows))[:, None], rows] = False
        row, member = np.nonzero(onward)
        rows = np.column_stack([rows[row], member])
    return rows


def _replanned(chains: Chains, places: Rows, rng: np.random.Generator, *, worst: bool) -> Rows:
    """Plan a few clusters, and idle members, exactly; at random, or with the worst among them."""
    size, number = chains.size, chains.number
    group = max((g for g in range(size, 13) if math.perm(g, size) <= REPLAN_ROWS), default=0)
    order = rng.permutation(number)
    broken, seconds = chains.score(_rows(chains, places))
    if worst:
        last = np.lexsort((seconds, broken))[-1]
        order = np.array([last, *order[order != last]])
    chosen, others = np.split(order, [group // size])
    if not len(chosen):
        return places
    idle = rng.permutation(np.arange(number * size, len(places)))[: group - len(chosen) * size]
    spots = np.concatenate([(chosen[:, None] * size + np.arange(size)).ravel(), idle])
    who = places[spots]
    part = dataclasses.replace(
        chains,
        speeds=chains.speeds[who],
        limits=chains.limits[who],
        links=chains.links[np.ix_(who, who)],
        values=chains.values[who],
        number=len(chosen),
    )
    firsts = _rows(chains, places)[others, 0]
    slowest_s = float(seconds[others].max(initial=0.0))
    rows = exact_search(part, slowest_s, float(chains.values[firsts].sum()))
    if rows is None:
        return places
    changed = places.copy()
    left = np.setdiff1d(np.arange(len(who)), rows)
    changed[spots] = who[np.concatenate([rows.ravel(), left])]
    return changed


def _front(plans: Front) -> Front:
    kept: Front = []
    for plan in sorted(plans, key=lambda plan: (plan[0], -plan[1], plan[2])):
        if not kept or plan[1] > kept[-1][1]:
            kept.append(plan)
    return kept


def _grown(chains: Chains, rng: np.random.Generator) -> Rows:
    """Grow rows along links; all members, those of the clusters first.

    As in Warnsdorff's rule for a knight's tour, each next member is the one with the fewest free
    neighbours, so that none is cut off.
    """
    joined = chains.links > 0
    free = np.ones(len(joined), dtype=bool)
    draw = rng.random(len(joined))
    places: list[int] = []
    for _ in range(chains.number):
        row: list[int] = []
        for _ in range(chains.size):
            reachable = free & joined[row[-1]] if row else free
            if not reachable.any():
                row.reverse()
                reachable = free & joined[row[-1]]
            choices = np.flatnonzero(reachable if reachable.any() else free)
            ways = (joined[choices] & free).sum(axis=1)
            row.append(int(choices[np.lexsort((draw[choices], ways))[0]]))
            free[row[-1]] = False
        broken, seconds = chains.score(np.array([row, row[::-1]]))
        places += row[::-1] if (broken[1], seconds[1]) < (broken[0], seconds[0]) else row
    return np.array([*places, *np.flatnonzero(free)], dtype=np.intp)


def _descend(chains: Chains, places: Rows) -> tuple[Key, Rows]:
    """Take the best exchange of two places until none is better.

    `places` is a permutation of the members; the first ``number * size`` are the clusters row by
    row, the rest stay idle. Exchanges start at the slowest cluster, at broken ones before that.
    """
    while True:
        rows = _rows(chains, places)
        broken, seconds = chains.score(rows)
        now = _keys(chains, broken[None], seconds[None], rows[None, :, 0])[0]
        for cluster in np.lexsort((-seconds, -broken)):
            key, better = _best_exchange(chains, places, int(cluster), broken, seconds)
            if key[0] < now[0] or (key[0] == now[0] and _faster(key, now)):
                places = better
                break
        else:
            return now, places


def _faster(key: Key, now: Key) -> bool:
    return key[1] < now[1] * (1 - TIE) or (key[1] <= now[1] and key[2] < now[2])


def _best_exchange(
    chains: Chains, places: Rows, cluster: int, broken: Rows, seconds: Numbers
) -> tuple[Key, Rows]:
    """Return the best plan in which one member of `cluster` has changed places with another."""
    size, taken = chains.size, chains.number * chains.size
    own = np.arange(cluster * size, (cluster + 1) * size)
    here, there = (index.ravel() for index in np.meshgrid(own, np.arange(len(places))))
    different = (there < own[0]) | (there > here)
    here, there = here[different], there[different]
    if not len(here):
        return (int(broken.sum()) + 1, 0.0, 0), places
    plans = np.tile(places, (len(here), 1))
    each = np.arange(len(here))
    plans[each, here], plans[each, there] = places[there], places[here]
    rows = plans[:, :taken].reshape(len(here), chains.number, size)
    all_broken = np.tile(broken, (len(here), 1))
    all_seconds = np.tile(seconds, (len(here), 1))
    touched = there < taken
    for plan, number in ((each, cluster), (each[touched], there[touched] // size)):
        all_broken[plan, number], all_seconds[plan, number] = chains.score(rows[plan, number])
    keys = _keys(chains, all_broken, all_seconds, rows[:, :, 0])
    best = min(each, key=keys.__getitem__)
    return keys[best], plans[best]


def _keys(chains: Chains, broken: Rows, seconds: Numbers, firsts: Rows) -> list[Key]:
    """Return the key of each plan from what its clusters score, ``(plans, number)`` each."""
    slowest = seconds.max(axis=1)
    worth = objective(slowest, chains.values[firsts].sum(axis=1))
    tied = (seconds >= slowest[:, None] * (1 - TIE)).sum(axis=1)
    return list(zip(broken.sum(axis=1).tolist(), worth.tolist(), tied.tolist(), strict=True))


def _key_of(chains: Chains, places: Rows) -> Key:
    rows = _rows(chains, places)
    broken, seconds = chains.score(rows)
    return _keys(chains, broken[None], seconds[None], rows[None, :, 0])[0]


def _rows(chains: Chains, places: Rows) -> Rows:
    """Return the clusters, ``(number, size)``, without the idle members."""
    return places[: chains.number * chains.size].reshape(chains.number, chains.size)
