"""Plans against all plans there are, and against what nobody can earn more than."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.services import Action, ServiceInstance, plan, planned, planning, profit

NUMBERS = st.integers(-5, 9).map(float)


@st.composite
def instances(draw: Any) -> tuple[ServiceInstance, int]:
    models, levels, horizon = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 5)),
    )
    row = st.lists(NUMBERS, min_size=levels, max_size=levels)
    costs = st.lists(NUMBERS, min_size=levels - 1, max_size=levels - 1)
    wanted = st.lists(st.integers(0, 3).map(float), min_size=models, max_size=models)
    demand = draw(st.none() | st.lists(wanted, min_size=1, max_size=4))
    tables = (draw(st.lists(each, min_size=models, max_size=models)) for each in (row, costs))
    return ServiceInstance(*tables, demand), horizon


def every_plan(instance: ServiceInstance, horizon: int) -> Any:
    kinds = [
        Action(kind, model) for kind in ("serve", "upgrade") for model in range(instance.models)
    ]
    for actions in itertools.product(kinds, repeat=horizon):
        levels = [0] * instance.models
        for action in actions:
            levels[action.model] += action.kind == "upgrade"
        if max(levels) < instance.levels:
            yield actions


@given(instances())
@settings(max_examples=80, deadline=None)
def test_the_long_view_earns_what_the_best_of_all_plans_does(
    drawn: tuple[ServiceInstance, int],
) -> None:
    instance, horizon = drawn
    best = max(profit(instance, actions)[-1] for actions in every_plan(instance, horizon))
    found = planned("mlcp", instance, horizon)
    assert len(found.actions) == horizon
    assert found.exact
    assert found.profit == found.bound == pytest.approx(best)
    assert profit(instance, found.actions)[-1] == pytest.approx(best)
    for policy in ("msip", "rs"):
        other = planned(policy, instance, horizon, seed=1)
        assert other.profit <= best + 1e-9
        assert other.bound >= best - 1e-9


@given(instances())
@settings(max_examples=40, deadline=None)
def test_the_short_view_takes_the_most_of_each_round(drawn: tuple[ServiceInstance, int]) -> None:
    instance, horizon = drawn
    levels = [0] * instance.models
    for number, action in enumerate(plan("msip", instance, horizon)):
        earned = [instance.earns(levels, number, one) for one in instance.actions(levels)]
        assert instance.earns(levels, number, action) == max(earned)
        levels[action.model] += action.kind == "upgrade"


@given(instances(), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_what_is_too_large_is_planned_in_windows(
    drawn: tuple[ServiceInstance, int], cells: int
) -> None:
    instance, horizon = drawn
    best = planned("mlcp", instance, horizon).profit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "MOST_CELLS", cells)
        patch.setattr(planning, "WINDOW", 2)
        found = planned("mlcp", instance, horizon)
    assert len(found.actions) == horizon
    assert found.profit == pytest.approx(profit(instance, found.actions)[-1])
    assert found.profit <= best + 1e-9 <= found.bound + 2e-9


def test_giving_up_profit_early_ends_highest() -> None:
    """As GaisNet's figure 8: one model is worth two rounds of fine-tuning."""
    instance = ServiceInstance([[3, 3.5, 4], [2, 2, 2], [1, 5, 9]], [[4, 4], [1, 1], [2, 2]])
    curves = {
        policy: profit(instance, plan(policy, instance, 10, 0)) for policy in ("mlcp", "msip", "rs")
    }
    assert plan("mlcp", instance, 10)[:2] == [Action("upgrade", 2)] * 2
    assert curves["mlcp"][1] < curves["msip"][1]
    assert curves["mlcp"][-1] == 8 * 9 - 4
    assert curves["msip"][-1] == 30
    assert curves["mlcp"][-1] > max(curves["msip"][-1], curves["rs"][-1])


def test_a_thousand_models_are_planned_with_a_stated_bound() -> None:
    rng = np.random.default_rng(0)
    instance = ServiceInstance(np.sort(rng.random((1000, 5)), 1), rng.random((1000, 4)))
    found = planned("mlcp", instance, 100)
    assert not found.exact
    assert 0.9 * found.bound < found.profit <= found.bound
    assert found.profit > planned("msip", instance, 100).profit


def test_draws_follow_the_seed() -> None:
    instance = ServiceInstance(np.ones((3, 3)), np.ones((3, 2)))
    assert plan("rs", instance, 20, 1) == plan("rs", instance, 20, 1) != plan("rs", instance, 20, 2)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (lambda: ServiceInstance([], []), "serve_profit = 'of shape (0,)': must be of shape two"),
        (lambda: ServiceInstance([[1, 2]], [[1, 2]]), "upgrade_cost = 'of shape (1, 2)': must be"),
        (lambda: ServiceInstance([[1], [1, 2]], []), "serve_profit = 'no table of numbers': rows"),
        (lambda: ServiceInstance([[np.nan]], [[]]), "serve_profit = 'not finite': must be numbers"),
        (lambda: ServiceInstance([[1]], [[]], [[1, 1]]), "demand = 'of shape (1, 2)': must be"),
        (lambda: plan("best", ServiceInstance([[1]], [[]]), 3), "policy = 'best': "),
        (lambda: plan("mlcp", ServiceInstance([[1]], [[]]), 0), "horizon = 0: must be at least 1"),
        (
            lambda: profit(ServiceInstance([[1]], [[]]), [Action("upgrade", 0)]),
            "actions[0] = ('upgrade', 0): must be one of 1 models",
        ),
        (
            lambda: profit(ServiceInstance([[1]], [[]]), [Action("serve", 1)]),
            "actions[0] = ('serve', 1): must be one of 1 models",
        ),
    ],
)
def test_bad_input_is_one_line(made: Any, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        made()
    assert str(refused.value).startswith(line)
