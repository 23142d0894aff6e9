"""Whom to join into clusters for split learning, and in which order.

GaisNet's second decision, "how to cluster" (arXiv 2401.02668, section IV): from compute, memory,
who can reach whom, and the data of the first member, which alone feeds samples in.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.split.chains import Chains, Rows
from mfd_flower.split.cuts import Numbers, block_numbers, numbers, plan_cuts, step_seconds
from mfd_flower.split.members import Member, data_value
from mfd_flower.split.search import exact_search, local_search

Solver = Literal["exact", "local-search"]
EXACT_ROWS = 50_000
"""Ordered clusters that the exact solver looks through at most: 16 members in clusters of 4."""
EXACT_MEMBERS = 16


@dataclass(frozen=True)
class Cluster:
    """A plan for one cluster.

    Attributes
    ----------
    addresses : tuple of str
        Members in the order of their stages; the first has data and embedding, the last the head.
    cuts : tuple of int
        As `split_model` takes them; member k holds the blocks from cut k - 1 to before cut k.
    step_s : float
        Seconds of its slowest stage or link in one step.
    """

    addresses: tuple[str, ...]
    cuts: tuple[int, ...]
    step_s: float


def plan_clusters(
    members: Sequence[Member],
    links: Mapping[str, Mapping[str, float]],
    size: int,
    *,
    costs: Sequence[float],
    memory: Sequence[float] | None = None,
    cut_bytes: Sequence[float] | None = None,
    number: int | None = None,
    closed: bool = False,
    solver: Solver | None = None,
    seed: int = 0,
) -> list[Cluster]:
    r"""Form clusters of `size` members, order them, and cut the model for each.

    .. math::

        \min \frac{\max_k T_k}{\sum_k v(\mathit{first}_k)}

    with :math:`T_k` the step of cluster k under its best cuts (`plan_cuts`) and :math:`v` the
    `data_value` of a member. Clusters work side by side and the slowest keeps the others waiting,
    so this is the time in which a step of all clusters feeds one unit of useful data. Members that
    no cluster needs stay idle.

    After a member has failed, plan its cluster anew from the survivors and the idle members, with
    ``number=1``; the other clusters need not change.

    Parameters
    ----------
    members : sequence of Member
        Who is there; their order settles nothing but ties.
    links : mapping
        ``links[a][b]`` is the rate from a to b in bits per second. Two members are linked if both
        directions are given, at the slower of the two, since gradients go back. Addresses that are
        not among `members` are passed over.
    size : int
        Members of a cluster, at most as many as there are blocks.
    costs, memory, cut_bytes : sequence of float
        FLOPs of a step and bytes needed of each block, bytes over each cut, as `plan_cuts` takes
        them. Without `memory` no memory limits; without `cut_bytes` links take no time.
    number : int, optional
        Clusters; without it as many as the members allow.
    closed : bool
        The last member must be linked to the first: inference, whose result returns to the asker,
        and U-shaped training.
    solver : {"exact", "local-search"}, optional
        ``exact`` looks through all plans, ``local-search`` exchanges members while that helps;
        `experiments/bench/clusters.py` measures how far from exact it ends. Without it exact for
        16 members at most, in clusters of 4 at most (for 10, of 5).
    seed : int
        Draws the starts of the local search.

    Returns
    -------
    list of Cluster
        By the place of their first in `members`.

    Raises
    ------
    ConfigError
        If an argument is out of range, or clusters like these were not found; the message names
        the requirement without which they would have been.
    """
    model = block_numbers(costs, memory, cut_bytes)
    number = len(members) // max(size, 1) if number is None else number
    _check(members, size, number, len(costs))
    solver = _solver(solver, len(members), size)
    rates = _rates(members, links)
    values = np.array([data_value(member) for member in members])
    speeds = [member.flops_per_s for member in members]
    limits = [member.memory_bytes for member in members]
    chains = Chains(
        *model,
        numbers("members.flops_per_s", speeds, len(members), above_zero=True),
        numbers("members.memory_bytes", limits, len(members)),
        rates,
        values,
        size,
        number,
        closed,
    )
    rows = _search(chains, solver, seed)
    if rows is None:
        raise _refusal(chains, solver, seed)
    clusters = []
    for row in sorted(rows.tolist()):
        workers = [speeds[m] for m in row]
        held = None if memory is None else [limits[m] for m in row]
        pairs = itertools.pairwise(row)
        sent = None if cut_bytes is None else [float(rates[a, b]) for a, b in pairs]
        cuts = plan_cuts(costs, workers, memory, held, cut_bytes=cut_bytes, link_bps=sent)
        step_s = step_seconds(cuts, costs, workers, cut_bytes, sent)
        addresses = tuple(members[m].address for m in row)
        clusters.append(Cluster(addresses, tuple(cuts), step_s))
    return clusters


def _search(chains: Chains, solver: Solver, seed: int) -> Rows | None:
    return exact_search(chains) if solver == "exact" else local_search(chains, seed)


def _refusal(chains: Chains, solver: Solver, seed: int) -> ConfigError:
    """Name the first requirement without which clusters are found."""
    size, number = chains.size, chains.number
    none = f"no {number} clusters of {size}" + (" found" if solver == "local-search" else "")
    back = ", the last one to the first too" if chains.closed else ""
    linked = int((chains.links > 0).sum()) // 2
    fed = int((chains.values > 0).sum())
    needed = float(chains.memory.sum())
    relaxed = (
        (
            "links",
            linked,
            f"linked pairs, {none} with each member linked to the next{back}",
            dataclasses.replace(chains, links=np.where(chains.links > 0, chains.links, np.inf)),
        ),
        (
            "members.samples",
            fed,
            f"members with samples, {none} with one of them first",
            dataclasses.replace(chains, values=np.ones_like(chains.values)),
        ),
        (
            "memory",
            needed,
            f"bytes for all blocks, {none} that hold them",
            dataclasses.replace(chains, memory=np.zeros_like(chains.memory)),
        ),
    )
    for name, value, accepted, without in relaxed:
        if _search(without, solver, seed) is not None:
            return ConfigError(name, value, accepted)
    return ConfigError(
        "number", number, f"{none} that are linked in a row{back}, hold the model and start at data"
    )


def _rates(members: Sequence[Member], links: Mapping[str, Mapping[str, float]]) -> Numbers:
    """Return the bits per second between each two members, 0 where they are not linked."""
    index = {member.address: place for place, member in enumerate(members)}
    rates = np.zeros((len(members), len(members)))
    for source in index:
        for target, rate in links.get(source, {}).items():
            if target == source or target not in index:
                continue
            if not (math.isfinite(rate) and rate > 0):
                raise ConfigError(f"links[{source}][{target}]", rate, "must be finite and above 0")
            rates[index[source], index[target]] = rate
    return np.minimum(rates, rates.T)


def _check(members: Sequence[Member], size: int, number: int, blocks: int) -> None:
    addresses = [member.address for member in members]
    if doubled := sorted({a for a in addresses if addresses.count(a) > 1}):
        raise ConfigError("members.address", doubled[0], "each member needs its own")
    if not 1 <= size <= blocks:
        raise ConfigError("size", size, f"1 to {blocks}, at least one block a member")
    if not 1 <= number <= len(members) // size:
        accepted = f"1 to {len(members) // size} clusters of {size} from {len(members)} members"
        raise ConfigError("number", number, accepted)
    for member in members:
        if member.samples < 0:
            raise ConfigError(f"{member.address}.samples", member.samples, "must be at least 0")
        numbers(f"{member.address}.label_counts", member.label_counts, len(member.label_counts))


def _solver(solver: Solver | None, members: int, size: int) -> Solver:
    few = members <= EXACT_MEMBERS and math.perm(members, size) <= EXACT_ROWS
    if solver is None:
        return "exact" if few else "local-search"
    if solver not in get_args(Solver):
        raise ConfigError("solver", solver, f"accepted: {', '.join(get_args(Solver))}")
    if solver == "exact" and not few:
        accepted = (
            f"for {EXACT_MEMBERS} members and {EXACT_ROWS} ordered clusters of them at most, not"
            f" {members} and {math.perm(members, size)}"
        )
        raise ConfigError("solver", solver, accepted)
    return solver
