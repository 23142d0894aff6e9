"""Metropolis-Hastings walk: visit nodes as often as a chosen distribution says.

Metropolis et al. 1953, Hastings 1970. The jumps against entrapment follow "The Entrapment Problem
in Random Walk Decentralized Learning" (MHLJ, arXiv 2407.20611); there a jump is several blind steps
along links, here it is one blind step in the holder's table, which spans as many hops as adverts.
"""

from __future__ import annotations

from typing import Annotated, Literal

from mfd_flower.checks import Bounds
from mfd_flower.routing.candidate import Known


def metropolis(
    known: Known,
    target: Literal["uniform", "samples"] = "uniform",
    epsilon: Annotated[float, Bounds(0.0, 1.0)] = 0.0,
) -> str:
    """Propose a candidate uniformly, and go there or stay as Metropolis-Hastings says.

    A proposal from i to j is accepted with probability min(1, pi_j d_i / (pi_i d_j)), d being the
    degrees; a refused one returns the address of `here`, where the packet then trains again. Where
    tables are symmetric and `degree` is the size of a node's table, the walk's stationary
    distribution is pi exactly, whatever the graph. Leaving out recently visited nodes breaks that.

    With probability `epsilon` the test is left out: a jump. With P the Metropolis walk and Q the
    simple walk on the same tables, the walk is (1 - epsilon) P + epsilon Q, and its stationary
    distribution nu is no longer pi but the solution of

        nu - pi = epsilon nu (Q - P) Z,    Z = sum over k >= 0 of (P^k - 1 pi),

    a bias towards well-linked nodes that is linear in small `epsilon` (the sum in Abel's sense if P
    is periodic); at `epsilon` = 1 nu is proportional to the degree. It is zero for every `epsilon`
    if pi itself is proportional to the degree, such as the uniform target on tables of one size.

    The `target` pi is ``uniform``, or ``samples`` for proportional to the samples a node holds.
    """
    here, candidates, _, rng = known
    proposal = candidates[int(rng.integers(len(candidates)))]
    if rng.random() < epsilon:
        return proposal.address
    pi_here, pi_there = (here.amount, proposal.amount) if target == "samples" else (1.0, 1.0)
    # A holder that was given no degree has at least the neighbours it can choose from.
    degree_here = max(here.degree, len(candidates))
    bar = pi_here * proposal.degree
    accepted = bar == 0 or rng.random() * bar < pi_there * degree_here
    return proposal.address if accepted else here.address
