"""Fine-tune or infer where nobody knows beforehand what a model will earn.

What a level earns is seen by serving with it, with noise. Until then it may be worth as much as can
be hoped for, afterwards its mean and a bonus that shrinks with how often it was seen (Auer,
Cesa-Bianchi and Fischer 2002, *Finite-time analysis of the multiarmed bandit problem*, UCB1). In
each round the best plan for the rest of the horizon is made on these hopes and its first action
done: optimism in the face of uncertainty, as Jaksch, Ortner and Auer 2010 (UCRL2) have it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from mfd_flower.checks import ConfigError, checked
from mfd_flower.services.instance import Action, Floats, ServiceInstance
from mfd_flower.services.planning import MOST_ROUNDS, WINDOW, plan_ahead


def learned(
    instance: ServiceInstance,
    horizon: int,
    hoped: ArrayLike,
    *,
    noise: float = 0.0,
    seed: int | None = None,
) -> list[Action]:
    """Return what an optimist does in `horizon` rounds, who knows costs and demand alone.

    Parameters
    ----------
    instance
        What is true. Only what serving earned is looked at, with noise, after it was done.
    hoped : array-like, broadcast to (models, levels)
        What each level may earn at most, for a demand of 1.
    noise
        Standard deviation of what is seen of a profit, for a demand of 1.
    seed
        Of the noise.

    Raises
    ------
    ConfigError
        For a horizon or noise that is none, and hopes below what is true: they would be no bound.
    """
    checked("horizon", horizon, int, {"low": 1, "high": MOST_ROUNDS})
    checked("noise", noise, float, {"low": 0.0})
    shape = instance.serve_profit.shape
    try:
        most = np.broadcast_to(np.asarray(hoped, float), shape)
    except (TypeError, ValueError):
        raise ConfigError("hoped", "no such table", f"numbers that fit {shape}") from None
    if not (most >= instance.serve_profit).all():
        raise ConfigError("hoped", float(most.min()), "at least what each level earns")
    rng = np.random.default_rng(seed)
    seen, times = np.zeros_like(instance.serve_profit), np.zeros(instance.serve_profit.shape, int)
    levels, actions = [0] * instance.models, list[Action]()
    for number in range(horizon):
        hopes = _hopes(most, seen, times, noise, horizon)
        believed = ServiceInstance(hopes, instance.upgrade_cost, instance.demand)
        action = plan_ahead(believed, levels, number, min(WINDOW, horizon - number))[0]
        if action.kind == "serve":
            at = action.model, levels[action.model]
            seen[at] += rng.normal(instance.serve_profit[at], noise)
            times[at] += 1
        levels[action.model] += action.kind == "upgrade"
        actions.append(action)
    return actions


def _hopes(most: Floats, seen: Floats, times: np.ndarray, noise: float, horizon: int) -> Floats:
    """Return the upper confidence bound of what each level earns."""
    often = np.maximum(times, 1)
    bonus = noise * np.sqrt(2 * math.log(max(horizon, 2)) / often)
    return np.where(times > 0, np.minimum(seen / often + bonus, most), most)
