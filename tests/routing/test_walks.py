"""Walks taken hop by hop through `choose`, against the theory of random walks on graphs.

Cover times and stationary distributions: Lovasz, "Random walks on graphs: a survey" (1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from mfd_flower.routing import Candidate, choose

Step = Callable[[int], int]


def stepper(
    graph: nx.Graph,
    policy: str,
    seed: int,
    samples: dict[int, int] | None = None,
    **options: float | str,
) -> Step:
    """Return the function from the node that holds the packet to the next."""
    amounts = samples or {}
    nodes = {
        v: Candidate(f"n{v}", samples=amounts.get(v, 1), degree=graph.degree[v]) for v in graph
    }
    tables = {v: [nodes[u] for u in graph[v]] for v in graph}
    rng = np.random.default_rng(seed)

    def step(v: int) -> int:
        return int(choose(policy, nodes[v], tables[v], (), rng, **options)[1:])

    return step


def cover_time(step: Step, start: int, nodes: int) -> int:
    """Return the hops until every node has been visited, the start from the outset."""
    here, hops, left = start, 0, set(range(nodes)) - {start}
    while left:
        here = step(here)
        hops += 1
        left.discard(here)
    return hops


def hops_until(step: Step, start: int, goal: set[int], limit: int) -> int:
    """Return the hops until the packet is in `goal`, or `limit` if that takes longer."""
    here = start
    for hops in range(limit):
        if here in goal:
            return hops
        here = step(here)
    return limit


def visit_shares(step: Step, nodes: int, hops: int) -> NDArray[np.float64]:
    """Return the share of hops spent at each node in one long walk."""
    counts, here = np.zeros(nodes), 0
    for _ in range(hops):
        here = step(here)
        counts[here] += 1
    return counts / hops


def total_variation(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float(np.abs(p - q).sum() / 2)


def harmonic(n: int) -> float:
    return sum(1 / k for k in range(1, n + 1))


def simple_walk(graph: nx.Graph) -> NDArray[np.float64]:
    """Return the simple random walk's transition matrix."""
    links = nx.to_numpy_array(graph, nodelist=sorted(graph))
    return links / links.sum(axis=1, keepdims=True)


def metropolis_walk(graph: nx.Graph, pi: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Metropolis chain: Q_ij min(1, pi_j Q_ji / (pi_i Q_ij)) off the diagonal."""
    proposal = simple_walk(graph)
    flow = pi[:, None] * proposal
    chain = np.minimum(flow, flow.T) / pi[:, None]
    np.fill_diagonal(chain, 1 - chain.sum(axis=1))
    return chain


def stationary(chain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return nu with nu P = nu and sum 1."""
    size = len(chain)
    equations = np.vstack([chain.T - np.eye(size), np.ones(size)])
    return np.linalg.lstsq(equations, np.append(np.zeros(size), 1), rcond=None)[0]


def mean_hitting_time(chain: NDArray[np.float64], start: int, goal: set[int]) -> float:
    """Return the expected hops to `goal`: (I - P restricted to the rest)^-1 1."""
    rest = [v for v in range(len(chain)) if v not in goal]
    inner = chain[np.ix_(rest, rest)]
    return float(np.linalg.solve(np.eye(len(rest)) - inner, np.ones(len(rest)))[rest.index(start)])


N = 10
COVER_TIMES = {
    # Every hop but the first sees one of n - 1 equally likely others: coupons.
    "complete": (nx.complete_graph(N), 0, (N - 1) * harmonic(N - 1)),
    # With k in a row visited, the walk at one end needs k hops to leave the row: 1 + 2 + ...
    "cycle": (nx.cycle_graph(N), 0, N * (N - 1) / 2),
    # From an end the last node is the other end, and gambler's ruin takes (n - 1)^2 hops there.
    "path from an end": (nx.path_graph(N), 0, (N - 1) ** 2),
    # The centre draws a leaf every second hop: coupons of n - 1 leaves, without the last way back.
    "star from the centre": (nx.star_graph(N - 1), 0, 2 * (N - 1) * harmonic(N - 1) - 1),
    # One hop to the centre, one leaf fewer to collect.
    "star from a leaf": (nx.star_graph(N - 1), 3, 2 * (N - 1) * harmonic(N - 2)),
}


@pytest.mark.parametrize("name", COVER_TIMES)
def test_mean_cover_time_of_the_random_walk(name: str) -> None:
    """Within a 99.9 % interval over 1500 walks, which is to be narrower than 7 % either way."""
    graph, start, expected = COVER_TIMES[name]
    step = stepper(graph, "random", seed=7)
    times = np.array([cover_time(step, start, N) for _ in range(1500)])
    half_width = 3.29 * times.std(ddof=1) / math.sqrt(len(times))
    assert half_width < 0.07 * expected
    assert times.mean() == pytest.approx(expected, abs=half_width)


IRREGULAR = nx.lollipop_graph(5, 4)
"""A clique of 5 with a path of 4: degrees from 1 to 5."""
SAMPLES = {v: 1 + (7 * v) % 5 for v in IRREGULAR}
HOPS = 60_000


def test_random_walk_visits_in_proportion_to_the_degree() -> None:
    degrees = np.array([IRREGULAR.degree[v] for v in sorted(IRREGULAR)])
    shares = visit_shares(stepper(IRREGULAR, "random", seed=1), len(IRREGULAR), HOPS)
    assert total_variation(shares, degrees / degrees.sum()) < 0.02
    # The test can tell this from an even walk.
    assert total_variation(shares, np.full(9, 1 / 9)) > 0.15


def test_metropolis_visits_all_alike_on_an_irregular_graph() -> None:
    shares = visit_shares(stepper(IRREGULAR, "metropolis", seed=2), len(IRREGULAR), HOPS)
    assert total_variation(shares, np.full(9, 1 / 9)) < 0.02


def test_metropolis_visits_in_proportion_to_samples() -> None:
    step = stepper(IRREGULAR, "metropolis", 3, SAMPLES, target="samples")
    amounts = np.array([SAMPLES[v] for v in sorted(IRREGULAR)])
    shares = visit_shares(step, len(IRREGULAR), HOPS)
    assert total_variation(shares, amounts / amounts.sum()) < 0.02
    assert total_variation(shares, np.full(9, 1 / 9)) > 0.15


def test_jumps_bias_the_stationary_distribution_as_documented() -> None:
    """nu - pi = epsilon nu (Q - P) Z, and the walk's own shares are nu, not pi."""
    epsilon, pi = 0.4, np.full(9, 1 / 9)
    simple, metropolis = simple_walk(IRREGULAR), metropolis_walk(IRREGULAR, pi)
    nu = stationary((1 - epsilon) * metropolis + epsilon * simple)
    deviation = np.linalg.inv(np.eye(9) - metropolis + np.outer(np.ones(9), pi)) - np.outer(
        np.ones(9), pi
    )
    assert nu - pi == pytest.approx(epsilon * nu @ (simple - metropolis) @ deviation)
    assert total_variation(nu, pi) > 0.05
    shares = visit_shares(stepper(IRREGULAR, "metropolis", 4, epsilon=epsilon), 9, HOPS)
    assert total_variation(shares, nu) < 0.02


def test_jumps_leave_the_uniform_target_alone_where_degrees_are_equal() -> None:
    graph = nx.circulant_graph(9, [1, 2])
    shares = visit_shares(stepper(graph, "metropolis", 5, epsilon=0.5), 9, HOPS)
    assert total_variation(shares, np.full(9, 1 / 9)) < 0.02


def test_a_heavy_node_holds_the_metropolis_walk_at_home() -> None:
    """Node 0 with 6 samples in a triangle with 2 and 2: it is left with probability 1/3."""
    step = stepper(nx.complete_graph(3), "metropolis", 6, {0: 6, 1: 2, 2: 2}, target="samples")
    left = np.mean([step(0) != 0 for _ in range(4000)])
    # 99.9 % of a binomial share: 3.29 sqrt(1/3 x 2/3 / 4000).
    assert left == pytest.approx(1 / 3, abs=0.025)


CLIQUE, BRIDGE = 5, 4
ENTRAPMENT = nx.barbell_graph(CLIQUE, BRIDGE)
"""Two data-rich cliques joined by a path of nodes with little data."""
RICH_SAMPLES = {v: 1 if CLIQUE <= v < CLIQUE + BRIDGE else 20_000 for v in ENTRAPMENT}
FAR_CLIQUE = set(range(CLIQUE + BRIDGE, 2 * CLIQUE + BRIDGE))


def test_a_greedy_walk_stays_in_its_clique_for_ever() -> None:
    """Labels of a clique are alike, so the nearest in divergence is always next door."""
    nodes = {
        v: Candidate(
            f"n{v}",
            (90.0, 10.0) if v < CLIQUE else (1.0, 1.0) if v not in FAR_CLIQUE else (10.0, 90.0),
            samples=RICH_SAMPLES[v],
            degree=ENTRAPMENT.degree[v],
        )
        for v in ENTRAPMENT
    }
    last_visit: dict[int, int] = {}
    here, rng = 0, np.random.default_rng(0)
    for hop in range(2000):
        last_visit[here] = hop
        table = [
            Candidate(nodes[u].address, nodes[u].label_counts, last_visit=last_visit.get(u, -1))
            for u in ENTRAPMENT[here]
        ]
        here = int(choose("kl-near", nodes[here], table, (0, 0), rng)[1:])
    assert set(last_visit) == set(range(CLIQUE))


def test_metropolis_needs_its_jumps_to_leave_a_rich_clique() -> None:
    """Exact mean hops to the far clique: a million without jumps, some 400 with three in ten.

    A hitting time's tail is about geometric, so ten times the mean is exceeded once in e^10 walks.
    """
    amounts = np.array([RICH_SAMPLES[v] for v in sorted(ENTRAPMENT)], dtype=float)
    trapped = metropolis_walk(ENTRAPMENT, amounts / amounts.sum())
    freed = 0.7 * trapped + 0.3 * simple_walk(ENTRAPMENT)
    expected = mean_hitting_time(freed, 0, FAR_CLIQUE)
    assert mean_hitting_time(trapped, 0, FAR_CLIQUE) > 1000 * expected

    limit = math.ceil(10 * expected)
    step = stepper(ENTRAPMENT, "metropolis", 8, RICH_SAMPLES, target="samples", epsilon=0.3)
    times = np.array([hops_until(step, 0, FAR_CLIQUE, limit) for _ in range(200)])
    assert times.max() < limit
    half_width = 3.29 * times.std(ddof=1) / math.sqrt(len(times))
    assert times.mean() == pytest.approx(expected, abs=half_width)

    step = stepper(ENTRAPMENT, "metropolis", 9, RICH_SAMPLES, target="samples")
    assert {hops_until(step, 0, FAR_CLIQUE, limit) for _ in range(10)} == {limit}
