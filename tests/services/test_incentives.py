"""Worth and pay: Shapley's axioms against all orders, and what a share of a profit must keep to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.services import leave_one_out, payments, shapley, shapley_estimate

Game = Mapping[frozenset[str], float]
WORTHS = st.floats(-100, 100)


def subsets(players: str) -> list[frozenset[str]]:
    sizes = range(len(players) + 1)
    return [frozenset(c) for size in sizes for c in itertools.combinations(players, size)]


@st.composite
def games(draw: Any, games: int = 1) -> tuple[str, list[Game]]:
    """Draw players, and games of theirs in which the empty coalition may be worth something."""
    players = "abcde"[: draw(st.integers(1, 5))]
    every = subsets(players)
    return players, [{c: draw(WORTHS) for c in every} for _ in range(games)]


def over_all_orders(players: str, game: Game) -> dict[str, float]:
    """What each adds to those before it, the mean over all orders."""
    found = dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            found[player] += game[before | {player}] - game[before]
    return {player: total / math.factorial(len(players)) for player, total in found.items()}


@given(games())
def test_a_value_is_the_mean_over_all_orders_and_adds_up(drawn: tuple[str, list[Game]]) -> None:
    players, (game,) = drawn
    found = shapley(game.__getitem__, players)
    assert found == pytest.approx(over_all_orders(players, game), abs=1e-9)
    whole = game[frozenset(players)] - game[frozenset()]
    assert sum(found.values()) == pytest.approx(whole, abs=1e-9)


@given(games())
def test_players_that_can_stand_in_for_each_other_are_worth_the_same(
    drawn: tuple[str, list[Game]],
) -> None:
    players, (game,) = drawn
    assume(len(players) > 1)
    swap = {"a": "b", "b": "a"}

    def alike(coalition: frozenset[str]) -> float:
        return game[coalition] + game[frozenset(swap.get(p, p) for p in coalition)]

    found = shapley(alike, players)
    assert found["a"] == pytest.approx(found["b"], abs=1e-9)


@given(games(), WORTHS)
def test_who_adds_the_same_to_all_is_worth_that(drawn: tuple[str, list[Game]], own: float) -> None:
    """And so nothing, if it adds nothing: a null player."""
    players, (game,) = drawn

    def with_z(coalition: frozenset[str]) -> float:
        return game[coalition - {"z"}] + own * ("z" in coalition)

    found, without = shapley(with_z, [*players, "z"]), shapley(game.__getitem__, players)
    assert found == pytest.approx({**without, "z": own}, abs=1e-9)
    assert leave_one_out(with_z, [*players, "z"])["z"] == pytest.approx(own, abs=1e-9)


@given(games(games=2))
def test_two_games_at_once_are_worth_their_sum(drawn: tuple[str, list[Game]]) -> None:
    players, (one, two) = drawn
    first, second = (shapley(game.__getitem__, players) for game in (one, two))
    both = shapley(lambda c: one[c] + two[c], players)
    assert both == pytest.approx({p: first[p] + second[p] for p in players}, abs=1e-9)


def test_as_many_players_as_are_exact() -> None:
    """Each adds its weight and a share of a square, worked out: v(S) = (sum of weights)^2."""
    weights = {place: float(place) for place in range(12)}
    found = shapley(lambda c: sum(weights[p] for p in c) ** 2, list(weights))
    assert found == pytest.approx({p: w * sum(weights.values()) for p, w in weights.items()})
    with pytest.raises(ConfigError, match=r"players = \[0, 1, .*12 at most; shapley_estimate"):
        shapley(lambda c: 0.0, range(13))


def test_an_estimate_adds_up_and_is_off_by_as_much_as_it_says() -> None:
    """Over 400 seeds: 95 % of the values within two standard errors, without a bias."""
    rng = np.random.default_rng(0)
    game = {c: float(rng.normal()) for c in subsets("abcde")}
    exact = shapley(game.__getitem__, "abcde")
    off = []
    for seed in range(400):
        found = shapley_estimate(game.__getitem__, "abcde", 50, seed)
        whole = game[frozenset("abcde")] - game[frozenset()]
        assert sum(found.values.values()) == pytest.approx(whole)
        off.append([(found.values[p] - exact[p]) / found.standard_errors[p] for p in "abcde"])
    assert np.abs(np.mean(off, 0)).max() < 4 / math.sqrt(400)
    assert 0.92 < (np.abs(off) < 2).mean() < 0.98
    again = [shapley_estimate(game.__getitem__, "abcde", 50, 7) for _ in range(2)]
    assert again[0] == again[1]


def test_where_nothing_depends_on_the_order_two_orders_tell_all() -> None:
    found = shapley_estimate(lambda c: float(sum(c)), range(30), 2, 0)
    assert found.values == pytest.approx({p: float(p) for p in range(30)})
    assert max(found.standard_errors.values()) < 1e-12


AMOUNTS = st.one_of(st.just(0.0), st.floats(1e-6, 1e9))
NODES = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-1e12, 1e12), min_size=n, max_size=n),
        st.lists(AMOUNTS, min_size=n, max_size=n),
    )
)


def named(values: list[float]) -> dict[str, float]:
    return {f"n{place}": value for place, value in enumerate(values)}


@settings(max_examples=300)
@given(NODES, AMOUNTS)
def test_payments_add_up_and_pay_who_gave_and_costs_first(
    drawn: tuple[list[float], list[float]], profit: float
) -> None:
    gave, costs = (named(values) for values in drawn)
    assume(max(gave.values()) > 0)
    paid = payments(gave, profit, costs)
    assert paid.keys() == gave.keys()
    assert sum(paid.values()) == pytest.approx(profit, rel=1e-12)
    assert all(amount >= 0 for amount in paid.values())
    assert all(paid[name] == 0 for name, each in gave.items() if each <= 0)
    due = {name: costs[name] for name, each in gave.items() if each > 0}
    covered = profit >= math.fsum(due.values())
    for name, cost in due.items():
        rounding = 1e-12 * max(cost, profit)
        assert paid[name] >= cost - rounding if covered else paid[name] <= cost + rounding


@settings(max_examples=300)
@given(NODES, AMOUNTS, AMOUNTS, st.integers(0, 7))
def test_nobody_gets_less_for_more_profit_or_a_larger_contribution(
    drawn: tuple[list[float], list[float]], profit: float, more: float, place: int
) -> None:
    gave, costs = (named(values) for values in drawn)
    assume(max(gave.values()) > 0)
    name, slack = f"n{place % len(gave)}", 1e-12 * (profit + more)
    before = payments(gave, profit, costs)
    richer = payments(gave, profit + more, costs)
    assert all(richer[each] >= before[each] - slack for each in gave)
    # Who gave nothing yet has costs from now on that others' covered ones leave less for.
    if gave[name] > 0:
        raised = payments({**gave, name: gave[name] + more}, profit, costs)
        assert raised[name] >= before[name] - slack


@given(NODES, AMOUNTS, st.floats(1e-6, 1e6))
def test_no_unit_of_contributions_and_no_order_of_nodes_matters(
    drawn: tuple[list[float], list[float]], profit: float, unit: float
) -> None:
    gave, costs = (named([float(round(v)) for v in values]) for values in drawn)
    assume(max(gave.values()) > 0)
    before = payments(gave, profit, costs)
    again = payments({name: unit * gave[name] for name in reversed(gave)}, profit, costs)
    assert again == pytest.approx(before, rel=1e-9, abs=1e-12 * profit)


def test_payments_worked_out_by_hand() -> None:
    gave = {"a": 3.0, "b": 1.0, "c": -2.0}
    assert payments(gave, 8) == {"a": 6.0, "b": 2.0, "c": 0.0}
    assert payments(gave, 8, {"a": 1.0, "b": 3.0, "c": 9.0}) == {"a": 4.0, "b": 4.0, "c": 0.0}
    assert payments(gave, 2, {"a": 1.0, "b": 3.0}) == {"a": 0.5, "b": 1.5, "c": 0.0}
    assert payments({"a": -1.0}, 0) == {"a": 0.0}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (({"a": 1.0}, -1), "profit = -1.0: must be at least 0 and at most 1e.18"),
        (({"a": 1.0}, math.nan), "profit = nan: must be finite"),
        (({"a": "much"}, 1), "contributions.a = 'much': must be a number"),
        (({"a": math.inf}, 1), "contributions.a = inf: must be finite"),
        (({"a": 1.0}, 1, {"a": -2}), "costs.a = -2.0: must be at least 0"),
        (({"a": 1.0}, 1, {"b": 2}), "costs.b = 2.0: must be of a contributor"),
        (({"a": 0.0, "b": -1.0}, 1), r"contributions = {.*: must have one above 0"),
        (({}, 1), r"contributions = {}: must have one above 0"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_in_one_line(told: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        payments(*told)


def test_what_is_no_game_is_refused() -> None:
    for players, said in ((["a", "a"], "each once"), ([], "at least one")):
        for find in (shapley, leave_one_out, lambda v, p: shapley_estimate(v, p, 2)):
            with pytest.raises(ConfigError, match=f"players = .*{said}"):
                find(lambda c: 0.0, players)
    with pytest.raises(ConfigError, match="value = nan: must be finite, of 1 players too"):
        shapley(lambda c: math.nan if c else 0.0, ["a"])
    with pytest.raises(ConfigError, match="permutations = 1: must be at least 2"):
        shapley_estimate(lambda c: 0.0, ["a"], 1)
