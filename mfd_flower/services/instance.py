"""Models that earn by serving, and cost to fine-tune; what a row of services earns.

GaisNet, *Towards Integrated Fine-tuning and Inference when Generative AI meets Edge Intelligence*
(arXiv 2401.02668), section V: each round an edge server serves with one of its models, or
fine-tunes one of them to the next level, which earns more from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import ConfigError

Floats = NDArray[np.float64]


class Action(NamedTuple):
    """What is done in a round."""

    kind: Literal["serve", "upgrade"]
    model: int


@dataclass(frozen=True, eq=False)
class ServiceInstance:
    """Models, the levels that they can have, and what both are worth.

    Parameters
    ----------
    serve_profit : array-like, (models, levels)
        Earned in a round by serving with a model at a level.
    upgrade_cost : array-like, (models, levels - 1)
        Paid in a round to fine-tune a model from a level to the next one. All begin at level 0.
    demand : array-like, (rounds, models), default: 1 for ever
        By what a round multiplies the profits of a model; behind its last round it stays.

    Raises
    ------
    ConfigError
        For shapes that do not fit, and for what is no number.
    """

    serve_profit: Floats
    upgrade_cost: Floats
    demand: Floats

    def __init__(
        self, serve_profit: ArrayLike, upgrade_cost: ArrayLike, demand: ArrayLike | None = None
    ) -> None:
        profits = _table("serve_profit", serve_profit)
        models, levels = profits.shape
        costs = _table("upgrade_cost", upgrade_cost, (models, levels - 1))
        wanted = np.ones((1, models)) if demand is None else demand
        rounds = _table("demand", wanted)
        if rounds.shape[1] != models or not len(rounds):
            said = f"must be (rounds, {models})"
            raise ConfigError("demand", f"of shape {rounds.shape}", said)
        for name, value in (("serve_profit", profits), ("upgrade_cost", costs), ("demand", rounds)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @property
    def models(self) -> int:
        """How many there are."""
        return len(self.serve_profit)

    @property
    def levels(self) -> int:
        """How many each can have."""
        return self.serve_profit.shape[1]

    def of(self, models: Sequence[int]) -> ServiceInstance:
        """Return the instance of some of its models."""
        rows = list(models)
        return ServiceInstance(
            self.serve_profit[rows], self.upgrade_cost[rows], self.demand[:, rows]
        )

    def profits(self, round_number: int) -> Floats:
        """Return what serving earns in a round, from 0, ``(models, levels)``."""
        wanted = self.demand[min(round_number, len(self.demand) - 1)]
        return wanted[:, None] * self.serve_profit

    def earns(self, levels: Sequence[int], round_number: int, action: Action) -> float:
        """Return what an action earns in a round, with models at these levels."""
        if action.kind == "serve":
            return float(self.profits(round_number)[action.model, levels[action.model]])
        return -float(self.upgrade_cost[action.model, levels[action.model]])

    def actions(self, levels: Sequence[int]) -> list[Action]:
        """Return what can be done with models at these levels."""
        upgrades = [m for m, level in enumerate(levels) if level + 1 < self.levels]
        return [
            *(Action("serve", model) for model in range(self.models)),
            *(Action("upgrade", model) for model in upgrades),
        ]


def profit(instance: ServiceInstance, actions: Sequence[Action]) -> list[float]:
    """Return what was earned up to and including each round.

    Raises
    ------
    ConfigError
        If an action cannot be done when its turn comes.
    """
    levels, earned = [0] * instance.models, []
    for round_number, action in enumerate(actions):
        if action not in instance.actions(levels):
            said = f"must be one of {instance.models} models, upgraded below the last level"
            raise ConfigError(f"actions[{round_number}]", tuple(action), said)
        earned.append(instance.earns(levels, round_number, action))
        levels[action.model] += action.kind == "upgrade"
    return list(itertools.accumulate(earned))


def _table(name: str, value: ArrayLike, shape: tuple[int, ...] | None = None) -> Floats:
    try:
        found = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(name, "no table of numbers", "rows of equal length") from None
    if shape is not None and 0 in shape and found.size == 0:
        found = found.reshape(shape)
    if found.ndim != 2 or (shape is None and 0 in found.shape) or (shape and found.shape != shape):
        wanted = "two dimensions, neither of them 0" if shape is None else f"{shape}"
        raise ConfigError(name, f"of shape {found.shape}", f"must be of shape {wanted}")
    if not np.isfinite(found).all():
        raise ConfigError(name, "not finite", "must be numbers")
    return found
