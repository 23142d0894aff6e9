"""Policies against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.routing import POLICIES, Candidate, choose, kl_divergence
from mfd_flower.routing.sketch import DIRECTIONS, Sketch

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


def at(mean: float) -> str:
    """The sketch of features around one value in every direction."""
    return Sketch(np.full(DIRECTIONS, mean), np.eye(DIRECTIONS)).to_text()


def test_kl_near_by_features_tells_equal_labels_apart() -> None:
    """The nearest features win, whatever the labels; who is silent of them comes last."""
    here = replace(HERE, sketch=at(0.0))
    near = Candidate("n2", (0.0, 4.0), sketch=at(0.5))
    far = Candidate("n1", (4.0, 0.0), sketch=at(2.0))
    silent = Candidate("n0", (4.0, 0.0))
    nodes = [silent, far, near]
    assert choose("kl-near", here, nodes, [0, 0], RNG, by="features") == "n2"
    assert choose("kl-near", here, nodes[:2], [0, 0], RNG, by="features") == "n1"
    assert choose("kl-near", here, nodes[1:], [0, 0], RNG, by="labels") == "n1"


def test_kl_near_by_features_is_directed_as_by_labels_it_is() -> None:
    """D(candidate || here): a wide candidate surprises a narrow holder more than the reverse."""
    scales = {"n1": 0.25, "n2": 1.0, "n3": 2.5}
    sketches = {
        name: Sketch(np.zeros(DIRECTIONS), scale * np.eye(DIRECTIONS)).to_text()
        for name, scale in scales.items()
    }
    narrow, here, wide = (Candidate(name, sketch=text) for name, text in sketches.items())
    # A direction: ln 4 - 15/32 = 0.92 nats for n1, 21/8 - ln 2.5 = 1.71 for n3.
    # The other way round they are 6.11 and 0.50.
    assert choose("kl-near", here, [narrow, wide], [], RNG, by="features") == "n1"


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


def test_tram_fl_visits_in_the_order_worked_out_by_hand() -> None:
    """Variance of the labels seen after each possible visit, times 27, the smallest marked.

    ============  =====  =====  =====  =====
    seen          n0     n1     n2     n3
    ============  =====  =====  =====  =====
    (6, 0, 0)     here   168    126*   216
    (6, 1, 5)     558    6*     here   126
    (6, 5, 5)     294    here   96     6*
    (8, 7, 7)     294    78*    96     here
    (8, 11, 7)    222    here   96     78*
    ============  =====  =====  =====  =====
    """
    nodes = {
        "n0": Candidate("n0", (6.0, 0.0, 0.0)),
        "n1": Candidate("n1", (0.0, 4.0, 0.0)),
        "n2": Candidate("n2", (0.0, 1.0, 5.0)),
        "n3": Candidate("n3", (2.0, 2.0, 2.0)),
    }
    seen, here, order = np.zeros(3), "n0", []
    for _ in range(5):
        seen = seen + nodes[here].label_counts
        others = [node for address, node in nodes.items() if address != here]
        here = choose("label-balance", nodes[here], others, seen, RNG)
        order.append(here)
    assert order == ["n2", "n1", "n3", "n1", "n3"]


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


def test_interest_prefers_what_the_packet_has_not_seen() -> None:
    same, other = Candidate("n1", (50.0, 0.0)), Candidate("n2", (0.0, 50.0))
    assert choose("interest", HERE, [same, other], [90, 0], RNG) == "n2"
    assert choose("interest", HERE, [same, other], [0, 90], RNG) == "n1"


def test_interest_weighs_novelty_against_freshness() -> None:
    """Seen (90, 9): novelty ln(101/91) / ln 101 = 0.023 against ln(101/10) / ln 101 = 0.501.

        Freshness is 1/11 for n1, left one hop ago, and 1/2 for n2, left ten hops ago: 0.046 against
    0.011. With both classes seen alike freshness alone decides.
    """
    rare = Candidate("n1", (0.0, 50.0), last_visit=19)
    common = Candidate("n2", (50.0, 0.0), last_visit=10)
    assert choose("interest", HERE, [rare, common], [90, 9], RNG, hop=20) == "n1"
    assert choose("interest", HERE, [rare, common], [50, 50], RNG, hop=20) == "n2"


def test_interest_falls_back_on_what_is_announced() -> None:
    low, high = Candidate("n1", interest=0.2), Candidate("n2", interest=0.8)
    assert choose("interest", HERE, [low, high], [9, 9], RNG) == "n2"
    # Left one hop ago: 0.8 x 1/11.
    assert choose("interest", HERE, [low, replace(high, last_visit=4)], [9, 9], RNG, hop=5) == "n1"


def test_interest_of_another_task_is_none() -> None:
    """A packet goes there only if there are no others, or the policy does not ask."""
    own = Candidate("n1", (1.0, 0.0), task="0" * 8)
    other = Candidate("n2", (0.0, 90.0), task="1" * 8)
    silent = Candidate("n3", (2.0, 0.0))
    task = "0" * 8
    assert choose("interest", HERE, [own, other], [90, 0], RNG, task, task=True) == "n1"
    assert choose("interest", HERE, [other, silent], [90, 0], RNG, task, task=True) == "n3"
    assert choose("interest", HERE, [other], [90, 0], RNG, task, task=True) == "n2"
    assert choose("interest", HERE, [own, other], [90, 0], RNG, task) == "n2"
    assert choose("interest", HERE, [own, other], [90, 0], RNG, task=True) == "n2"


def test_interest_with_loss_goes_where_the_model_did_badly() -> None:
    """Left 10 and 5 hops ago: freshness 1/2 and 1/3; unlearnt 1/4 and 1/2, or 1 where unknown."""
    learnt = Candidate("n1", (9.0, 9.0), loss=-math.log(0.75), last_visit=10)
    unlearnt = Candidate("n2", (9.0, 9.0), loss=math.log(2), last_visit=15)
    nodes = [learnt, unlearnt]
    assert choose("interest", HERE, nodes, [9, 9], RNG, hop=20) == "n1"
    assert choose("interest", HERE, nodes, [9, 9], RNG, hop=20, loss=True) == "n2"
    nodes = [replace(learnt, loss=None), unlearnt]
    assert choose("interest", HERE, nodes, [9, 9], RNG, hop=20, loss=True) == "n1"


def test_interest_with_loss_holds_for_nodes_that_keep_their_labels() -> None:
    low, high = Candidate("n1", interest=0.5, loss=2.0), Candidate("n2", interest=0.6, loss=0.2)
    assert choose("interest", HERE, [low, high], [9, 9], RNG) == "n2"
    assert choose("interest", HERE, [low, high], [9, 9], RNG, loss=True) == "n1"


def test_fastest_adds_transfer_and_compute() -> None:
    """1e9 FLOPs and 1e6 bits: n1 takes 1 s + 1 s, n2 0.1 s + 2 s; with little to send n2 wins."""
    n1 = Candidate("n1", flops_per_s=1e9, link_bps=1e6)
    n2 = Candidate("n2", flops_per_s=1e10, link_bps=5e5)
    silent = Candidate("n3", flops_per_s=1e12, link_bps=0.0)
    nodes = [silent, n1, n2]
    assert choose("fastest", HERE, nodes, [], RNG, flops=1e9, bits=1e6) == "n1"
    assert choose("fastest", HERE, nodes, [], RNG, flops=1e9, bits=1e5) == "n2"


@pytest.mark.parametrize(
    ("weight", "best"),
    [("w_balance", "n1"), ("w_speed", "n2"), ("w_interest", "n3"), ("w_recency", "n4")],
)
def test_weighted_with_one_weight_follows_that_term(weight: str, best: str) -> None:
    """Seen (90, 20): n1 evens it out, n2 is near and quick, n3 has most data, n4 is unvisited."""
    candidates = [
        Candidate("n1", (0.0, 60.0), last_visit=9),
        Candidate("n2", (40.0, 40.0), flops_per_s=1e12, link_bps=1e9, last_visit=8),
        Candidate("n3", (100.0, 900.0), last_visit=1),
        Candidate("n4", (90.0, 0.0)),
    ]
    others = dict.fromkeys(("w_balance", "w_speed", "w_interest", "w_recency"), 0.0)
    options = {**others, weight: 1.0}
    assert choose("weighted", HERE, candidates, [90, 20], RNG, **options) == best


def test_weighted_trades_terms_off_as_by_hand() -> None:
    """Times 1, 2, 5 s are costs 0, 1/4, 1; visits -1, 5, 2 are costs 0 -> n2: 1, n1: 1/2, n3: 0."""
    nodes = [
        Candidate("n1", flops_per_s=5e9, link_bps=math.inf, last_visit=2),
        Candidate("n2", flops_per_s=10e9, link_bps=math.inf, last_visit=5),
        Candidate("n3", flops_per_s=2e9, link_bps=math.inf),
    ]
    weights = {"w_balance": 0.0, "w_interest": 0.0, "flops": 1e10}
    # n1: s/4 + r/2, n2: r, n3: s.
    for w_speed, w_recency, best in ((1.0, 0.1, "n2"), (1.0, 1.0, "n1"), (0.1, 1.0, "n3")):
        options = {**weights, "w_speed": w_speed, "w_recency": w_recency}
        assert choose("weighted", HERE, nodes, [], RNG, **options) == best


@given(
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_weighted_does_not_depend_on_units(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = [
        Candidate(f"n{i}", tuple(rng.uniform(0, 9, 3)), flops_per_s=rng.uniform(1, 9))
        for i in range(6)
    ]
    scaled = [replace(c, flops_per_s=c.flops_per_s * scale, link_bps=scale) for c in nodes]
    first, second = (choose("weighted", HERE, c, [5, 0, 1], RNG) for c in (nodes, scaled))
    assert first == second


def test_weighted_survives_dead_links_and_hidden_labels() -> None:
    dead = [Candidate(f"n{i}", link_bps=0.0) for i in range(1, 4)]
    live = Candidate("n9", label_counts=(1.0, 1.0))
    assert choose("weighted", HERE, dead, [4, 4], RNG) == "n1"
    assert choose("weighted", HERE, [*dead, live], [4, 4], RNG) == "n9"


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


@pytest.mark.parametrize("policy", POLICIES)
def test_labels_that_are_kept_back_stop_no_policy(policy: str) -> None:
    """Neither another's nor the holder's own; what is told is weighed before what is not."""
    told, silent = Candidate("n1", (1.0, 1.0), 2), Candidate("n2", samples=2)
    for here in (HERE, Candidate("n0")):
        for candidates in ([silent], [silent, told]):
            chosen = choose(policy, here, candidates, [4, 4], np.random.default_rng(0))
            assert chosen in {c.address for c in (here, *candidates)}
    assert choose("kl-near", HERE, [silent, told], [4, 4], RNG) == "n1"


def test_unknown_policy_and_empty_table_are_refused() -> None:
    with pytest.raises(ConfigError, match="accepted: random, round-robin"):
        choose("greedy", HERE, [HERE], [], RNG)
    with pytest.raises(ConfigError, match="n0 knows no neighbour"):
        choose("random", HERE, [], [], RNG)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("random", {"batch": 1.0}, r"options\.batch = 1\.0: accepted by random: none"),
        ("fastest", {"speed": 1.0}, "accepted by fastest: flops, bits"),
        ("weighted", {"w_speed": -1.0}, r"options\.w_speed = -1\.0: must be at least 0"),
        (
            "weighted",
            {"w_balance": 0, "w_speed": 0, "w_interest": 0, "w_recency": 0},
            "at least one weight",
        ),
        ("metropolis", {"target": "degree"}, "accepted: uniform, samples"),
        ("metropolis", {"epsilon": 1.5}, "at least 0 and at most 1"),
        ("label-balance", {"batch": "all"}, r"options\.batch = 'all': must be a number"),
        ("fastest", {"bits": math.inf}, r"options\.bits = inf: must be finite and at least 0"),
        ("interest", {"hop": 2.5}, r"options\.hop = 2\.5: must be a whole number"),
        ("interest", {"loss": 1.0}, r"options\.loss = 1\.0: must be true or false"),
        ("kl-near", {"by": "pixels"}, r"options\.by = 'pixels': accepted: labels, features"),
    ],
)
def test_bad_options_are_refused_by_name(
    policy: str, options: dict[str, float | str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(policy, HERE, [Candidate("n1", (1.0, 1.0))], [1, 1], RNG, **options)
