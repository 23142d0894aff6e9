"""Who has to find out what models earn: nothing is lost on what is known, little on what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from mfd_flower.checks import ConfigError
from mfd_flower.services import ServiceInstance, learned, planned, profit
from tests.services.test_planning import instances


@given(instances())
@settings(max_examples=40, deadline=None)
def test_who_hopes_for_what_is_true_plans_as_who_knows_it(
    drawn: tuple[ServiceInstance, int],
) -> None:
    instance, horizon = drawn
    actions = learned(instance, horizon, instance.serve_profit)
    assert profit(instance, actions)[-1] == pytest.approx(planned("mlcp", instance, horizon).profit)


def test_what_is_lost_to_noise_falls_with_the_rounds() -> None:
    """A share of the best profit, on models of which the one that looks worst is worth most."""
    instance = ServiceInstance(
        [[0.5, 0.55, 0.6], [0.4, 0.45, 0.5], [0.1, 0.5, 0.95]], [[0.2, 0.2]] * 3
    )
    shares = []
    for horizon in (10, 40, 160):
        best = planned("mlcp", instance, horizon).profit
        found = [
            profit(instance, learned(instance, horizon, 1.0, noise=0.1, seed=seed))[-1]
            for seed in range(5)
        ]
        shares.append(float(np.mean(found)) / best)
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.9


@pytest.mark.parametrize(
    ("hoped", "noise", "says"),
    [
        (0.5, 0.0, "hoped = 0.5: at least what each level earns"),
        (2.0, -1.0, "noise = -1.0"),
        ("much", 0.0, "hoped = 'no such table': numbers that fit"),
        ([1.0, 2.0, 3.0], 0.0, "hoped = 'no such table': numbers that fit"),
    ],
)
def test_what_is_no_hope_is_refused(hoped: Any, noise: float, says: str) -> None:
    instance = ServiceInstance([[1.0, 1.5]], [[0.1]])
    with pytest.raises(ConfigError, match=says):
        learned(instance, 3, hoped, noise=noise)
