"""Policies that choose a service a round, and how far each is from the best there is.

GaisNet (arXiv 2401.02668), section V: MLCP earns most over the whole horizon, MSIP most in each
round by itself, RS draws. MLCP is exact by dynamic programming over the levels of all models. Where
there are too many of those it plans a window ahead, for the models that are worth most by then,
goes half of the way and plans again, and says what nobody could earn more than.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import checked
from mfd_flower.services.instance import Action, Floats, ServiceInstance, profit

Policy = Literal["mlcp", "msip", "rs"]
POLICIES: tuple[Policy, ...] = ("mlcp", "msip", "rs")
"""Maximum long-term cumulative profit, maximum short-term immediate profit, random."""
MOST_CELLS = 4_000_000
"""Of the table of an exact plan: levels of all models, by round."""
WINDOW = 50
"""Rounds that a plan looks ahead where not all can be held."""
MOST_ROUNDS = 100_000


@dataclass(frozen=True)
class Plan:
    """What is done in each round, and what is known of it."""

    actions: list[Action]
    profit: float
    exact: bool
    """Whether no plan earns more."""
    bound: float
    """What no plan can earn more than; of an exact one its profit."""


def plan(
    policy: str, instance: ServiceInstance, horizon: int, seed: int | None = None
) -> list[Action]:
    """Return what a policy does in `horizon` rounds; `seed` is of what it draws."""
    return planned(policy, instance, horizon, seed).actions


def planned(policy: str, instance: ServiceInstance, horizon: int, seed: int | None = None) -> Plan:
    """Return the same with what it earns, and what could be earned at most.

    Raises
    ------
    ConfigError
        For a policy that there is not, or a horizon that is none.
    """
    checked("policy", policy, Policy)
    checked("horizon", horizon, int, {"low": 1, "high": MOST_ROUNDS})
    if policy == "mlcp":
        return _mlcp(instance, horizon)
    rng = np.random.default_rng(seed)
    levels = [0] * instance.models
    actions: list[Action] = []
    for number in range(horizon):
        there = instance.actions(levels)
        if policy == "rs":
            action = there[int(rng.integers(len(there)))]
        else:
            # Of equal ones the first, which serves: what costs nothing now may cost later.
            action = max(there, key=lambda one: instance.earns(levels, number, one))
        levels[action.model] += action.kind == "upgrade"
        actions.append(action)
    earned = profit(instance, actions)[-1]
    return Plan(actions, earned, False, _bound(instance, horizon))


def _mlcp(instance: ServiceInstance, horizon: int) -> Plan:
    if _held(instance, horizon) == instance.models:
        whole = _exact(instance, [0] * instance.models, 0, horizon)
        earned = profit(instance, whole)[-1]
        return Plan(whole, earned, True, earned)
    levels = [0] * instance.models
    actions: list[Action] = []
    while len(actions) < horizon:
        begin = len(actions)
        rounds = min(WINDOW, horizon - begin)
        found = plan_ahead(instance, levels, begin, rounds)
        # Where the end is in sight the plan is kept; else it is made anew half way there.
        for action in found if begin + rounds == horizon else found[: WINDOW // 2]:
            levels[action.model] += action.kind == "upgrade"
            actions.append(action)
    earned = profit(instance, actions)[-1]
    return Plan(actions, earned, False, _bound(instance, horizon))


def plan_ahead(
    instance: ServiceInstance, levels: Sequence[int], begin: int, rounds: int
) -> list[Action]:
    """Return the best row of actions from these levels on, of the models that are worth most.

    Those are all, where a table holds them.
    """
    if _held(instance, rounds) == instance.models:
        return _exact(instance, levels, begin, rounds)
    models = _worth_most(instance, levels, begin, rounds)
    found = _exact(instance.of(models), [levels[m] for m in models], begin, rounds)
    return [Action(action.kind, models[action.model]) for action in found]


def _held(instance: ServiceInstance, rounds: int) -> int:
    """Return of how many models a table holds so many rounds, one at least."""
    most = math.log(MOST_CELLS / rounds) / math.log(max(instance.levels, 2))
    return max(1, min(instance.models, int(most + 1e-9)))


def _worth_most(
    instance: ServiceInstance, levels: Sequence[int], begin: int, rounds: int
) -> list[int]:
    """Return the models that would earn most by themselves from here on, as many as are held."""
    value = np.zeros_like(instance.serve_profit)
    for number in range(begin + rounds - 1, begin - 1, -1):
        best = instance.profits(number) + value
        best[:, :-1] = np.maximum(best[:, :-1], value[:, 1:] - instance.upgrade_cost)
        value = best
    alone = value[np.arange(instance.models), levels]
    order = np.lexsort((np.arange(instance.models), -alone))
    return sorted(order[: _held(instance, rounds)].tolist())


def _exact(
    instance: ServiceInstance, levels: Sequence[int], begin: int, rounds: int
) -> list[Action]:
    """Return the best row of actions from these levels on, by Bellman's equation, backwards."""
    shape = (instance.levels,) * instance.models
    value = np.zeros(shape)
    chosen = np.empty((rounds, *shape), np.int16)
    for number in range(begin + rounds - 1, begin - 1, -1):
        served = _along(instance.profits(number))
        best, which = served[0] + value, np.zeros(shape, np.int16)
        for model in range(1, instance.models):
            _better(best, which, served[model] + value, model)
        for model in range(instance.models):
            found = np.full(shape, -np.inf)
            lower, upper = _shifted(instance.models, model)
            costs = _along_one(instance.upgrade_cost[model], instance.models, model)
            found[lower] = value[upper] - costs
            _better(best, which, found, instance.models + model)
        value, chosen[number - begin] = best, which
    at, actions = list(levels), []
    for number in range(rounds):
        place = int(chosen[(number, *at)])
        kind: Literal["serve", "upgrade"] = "serve" if place < instance.models else "upgrade"
        action = Action(kind, place % instance.models)
        at[action.model] += kind == "upgrade"
        actions.append(action)
    return actions


def _better(best: Floats, which: NDArray[np.int16], found: Floats, number: int) -> None:
    more = found > best
    np.copyto(best, found, where=more)
    which[more] = number


def _along(profits: Floats) -> list[Floats]:
    """Return each model's profits by level as a table over the levels of all models."""
    return [_along_one(row, len(profits), model) for model, row in enumerate(profits)]


def _along_one(row: Floats, models: int, model: int) -> Floats:
    return row.reshape([-1 if axis == model else 1 for axis in range(models)])


def _shifted(models: int, model: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where a model is below its last level, and where it is one level higher."""
    whole = slice(None)
    lower = tuple(slice(None, -1) if axis == model else whole for axis in range(models))
    return lower, tuple(slice(1, None) if axis == model else whole for axis in range(models))


def _bound(instance: ServiceInstance, horizon: int) -> float:
    """Return what no plan can earn more than: each round the best level that any model can have.

    In round t at most t upgrades have been made, and what they cost is left out. Where upgrades
    earn, those that earn most are added.
    """
    best = 0.0
    for number in range(horizon):
        within = min(number + 1, instance.levels)
        best += float(
            max(
                instance.profits(number)[:, :within].max(),
                -instance.upgrade_cost.min(initial=np.inf),
            )
        )
    return best
