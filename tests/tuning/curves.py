"""A comparison whose runs are closed forms, so that the best setting is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mfd_flower.comparison import Comparison, PlannedRun
from mfd_flower.results import Results
from mfd_flower.runtime.compare import RunsFailedError
from mfd_flower.runtime.pool import FailedRun
from tests.accounting.test_targets import curve, run

MACHINE = {"cores": 1, "processor": "x", "python": "3.11", "packages": {"torch": "2"}}
BEST_LR, BEST_EPOCHS = 0.03, 5


def distance(planned: PlannedRun) -> float:
    """How far a run's settings lie from the best ones."""
    train = planned.config.train
    rate, epochs = train.lr / BEST_LR, train.local_epochs / BEST_EPOCHS
    return abs(math.log(rate)) + abs(math.log(epochs))


def slower(planned: PlannedRun) -> dict[str, Any]:
    """All reach the same accuracy; the further from the best settings, the later."""
    return reached_at(distance(planned))


def reached_at(time: float) -> dict[str, Any]:
    """Return a run that reaches its accuracy at a time, in tenths."""
    return run("", curve([0.1] * (1 + round(10 * time)) + [0.9]))


def lower(planned: PlannedRun) -> dict[str, Any]:
    """The further from the best settings, the lower the accuracy; bytes are alike."""
    return run("", curve([0.1, 0.9 / (1 + distance(planned))]))


class Curves:
    """Stands for `mfd_flower.compare`; `made` returns a run's record, or what it failed of."""

    def __init__(self, made: Callable[[PlannedRun], dict[str, Any] | str]) -> None:
        self.made = made
        self.asked: list[list[PlannedRun]] = []

    def __call__(self, comparison: Comparison, folder: Path, **options: Any) -> Results:
        self.asked.append([*comparison.runs])
        results, failed = Results(comparison.describe(), MACHINE), {}
        for planned in comparison.runs:
            record = self.made(planned)
            if isinstance(record, str):
                failed[planned.key] = FailedRun("RuntimeError", record)
                continue
            cell = {"scenario": planned.scenario, "strategy": planned.label}
            results.runs.append({**record, **cell, "seed": planned.config.seed})
        folder.mkdir(parents=True, exist_ok=True)
        if results.runs:
            results.save(folder)
        if failed:
            raise RunsFailedError("some failed", failed, results)
        return results
