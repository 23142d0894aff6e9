"""Clients that are alike are one domain, by sketches of their features."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.routing.sketch import DIRECTIONS, Sketch, gaussian_divergence
from mfd_flower.split.domains import divergences, grouped


def sketch(rng: np.random.Generator, at: float = 0.0) -> Sketch:
    mixed = rng.normal(size=(DIRECTIONS, DIRECTIONS)) / 3 + np.eye(DIRECTIONS)
    return Sketch.of(at + rng.normal(size=(40, DIRECTIONS)) @ mixed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 7))
def test_all_pairs_at_once_are_each_pair_by_itself(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    found = [sketch(rng, float(rng.integers(-3, 4))) for _ in range(count)]
    expected = [
        [gaussian_divergence(p, q) + gaussian_divergence(q, p) for q in found] for p in found
    ]
    np.testing.assert_allclose(divergences(found), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), groups=st.integers(1, 4))
def test_domains_far_apart_are_told_apart(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"n{place}" for place in range(3 * groups)]
    domain = dict(zip(names, rng.permutation(np.repeat(range(groups), 3)).tolist(), strict=True))
    sketches = {name: sketch(rng, 6.0 * where) for name, where in domain.items()}
    found = grouped(sketches, groups)
    assert sorted(name for group in found for name in group) == sorted(names)
    assert [len({domain[name] for name in group}) for group in found] == [1] * groups


def test_fewer_nodes_than_domains_have_one_each() -> None:
    rng = np.random.default_rng(0)
    assert grouped({"n0": sketch(rng), "n1": sketch(rng)}, 3) == [["n0"], ["n1"]]
