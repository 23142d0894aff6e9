"""Policies against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.config import ConfigError
from mfd_flower.routing import POLICIES, Candidate, choose, kl_divergence

RNG = np.random.default_rng(0)
HERE = Candidate("n0", (4.0, 0.0))


def test_kl_divergence_by_hand() -> None:
    # With one pseudo-count a class: p = (3/4, 1/4), q = (1/2, 1/2).
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence([2, 0], [1, 1]) == pytest.approx(by_hand)


histograms = st.lists(st.integers(0, 1000), min_size=4, max_size=4)


@given(p=histograms, q=histograms)
def test_kl_divergence_is_a_divergence(p: list[int], q: list[int]) -> None:
    assert kl_divergence(p, q) >= -1e-12
    assert math.isfinite(kl_divergence(p, q))
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-12)


def test_kl_near_picks_the_most_alike() -> None:
    candidates = [
        Candidate("n1", (0.0, 4.0)),
        Candidate("n2", (3.0, 1.0)),
        Candidate("n3", (2.0, 2.0)),
    ]
    assert choose("kl-near", HERE, candidates, [0, 0], RNG) == "n2"


def test_label_balance_orders_visits_as_by_hand() -> None:
    """Seen (4, 0, 0): n2 leaves variance 2.67, n1 6.22, n3 10.89; then n3 evens (4, 4, 2) out."""
    nodes = {
        "n1": Candidate("n1", (2.0, 1.0, 0.0)),
        "n2": Candidate("n2", (0.0, 4.0, 2.0)),
        "n3": Candidate("n3", (4.0, 0.0, 1.0)),
    }
    here = Candidate("n0", (4.0, 0.0, 0.0))
    first = choose("label-balance", here, list(nodes.values()), [4, 0, 0], RNG)
    assert first == "n2"
    rest = [nodes["n1"], nodes["n3"]]
    # (4, 4, 2) + n1 = (6, 5, 2): 2.89; + n3 = (8, 4, 3): 4.67.
    assert choose("label-balance", nodes["n2"], rest, [4, 4, 2], RNG) == "n1"


def test_label_balance_with_batch_weighs_shares_not_amounts() -> None:
    big = Candidate("n1", (0.0, 100.0))
    small = Candidate("n2", (0.0, 4.0))
    assert choose("label-balance", HERE, [big, small], [4, 0], RNG) == "n2"
    assert choose("label-balance", HERE, [big, small], [4, 0], RNG, batch=4.0) == "n1"


def test_round_robin_goes_around_by_number() -> None:
    ring = [Candidate(f"n{i}") for i in range(11)]
    path, here = [], ring[0]
    for _ in range(11):
        others = [c for c in ring if c != here]
        path.append(choose("round-robin", here, others[::-1], [], RNG))
        here = next(c for c in ring if c.address == path[-1])
    assert path == [f"n{i}" for i in [*range(1, 11), 0]]


def test_random_is_uniform() -> None:
    candidates = [Candidate(f"n{i}") for i in range(4)]
    rng = np.random.default_rng(1)
    picks = [choose("random", HERE, candidates, [], rng) for _ in range(4000)]
    counts = [picks.count(c.address) for c in candidates]
    # Chi-squared with 3 degrees of freedom, 99.9 % quantile 16.27.
    assert sum((c - 1000) ** 2 / 1000 for c in counts) < 16.27


@pytest.mark.parametrize("policy", POLICIES)
def test_choice_is_one_of_the_candidates_and_repeatable(policy: str) -> None:
    rng = np.random.default_rng(2)
    candidates = [Candidate(f"n{i}", tuple(rng.integers(9, size=3))) for i in range(1, 9)]
    here = Candidate("n0", (1.0, 2.0, 3.0))
    picks = {
        choose(policy, here, candidates, [1, 2, 3], np.random.default_rng(5)) for _ in range(3)
    }
    assert len(picks) == 1
    assert picks <= {c.address for c in candidates}


def test_unknown_policy_and_empty_table_are_refused() -> None:
    with pytest.raises(ConfigError, match="accepted: random, round-robin"):
        choose("greedy", HERE, [HERE], [], RNG)
    with pytest.raises(ConfigError, match="n0 knows no neighbour"):
        choose("random", HERE, [], [], RNG)
