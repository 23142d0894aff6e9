"""Successive halving over seeds: which settings go on to the next rung, and which is chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mfd_flower.accounting.summary import summarise
from mfd_flower.comparison import Metric
from mfd_flower.tuning.settings import Search, Setting

Objective = Literal["kept-bytes", "accuracy"]
"""Least wire to the scenario's target, reached and kept, or highest accuracy at the end."""
FACTOR = 3
LEAST = 2
"""Of one setting alone another seed would decide nothing."""
RESULT = ("best", "final", "total_wire", "wall_seconds")
"""Of a row of a summary, what is written down."""


@dataclass
class Trial:
    """One setting, and how it fared."""

    search: Search
    setting: Setting
    runs: list[Mapping[str, Any]] = field(default_factory=list)
    """One a seed."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """One a rung that it came through: what it reached on all seeds so far."""
    rank: str = ""
    """Among the settings of its search, in the last of those rungs."""
    failed: str = ""
    """Why it is never chosen."""


def by_search(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials of each search, which stand side by side."""
    groups = itertools.groupby(trials, lambda trial: (trial.search.scenario, trial.search.place))
    return [[*group] for _, group in groups]


def rung_size(tried: int, rung: int) -> int:
    """Return how many of the settings that are tried a rung has, if none of them fails."""
    return min(tried, max(LEAST, math.ceil(tried / FACTOR**rung)))


def measure(trials: Sequence[Trial], seeds: Sequence[int], margin: float, metric: Metric) -> None:
    """Add what the trials of a rung reached on its seeds, as a comparison's summary counts it.

    The target of a scenario is a share of the best accuracy that any entry reached there, in this
    rung, with any setting; one that failed sets none.
    """
    sound = [trial for trial in trials if not trial.failed]
    summary = summarise([run for trial in sound for run in trial.runs], margin, metric)
    rows = {(name, row["strategy"]): row for name in summary for row in summary[name]["rows"]}
    for trial in sound:
        row = rows[trial.search.scenario, trial.setting.label]
        reached = {
            "target": summary[trial.search.scenario]["target"],
            "kept_bytes": row["target"]["kept_bytes"],
            "seeds_kept": row["target"]["seeds"],
        }
        result = {"rung": len(seeds) - 1, "seeds": [*seeds]}
        trial.results.append({**result, **reached, **{name: row[name] for name in RESULT}})


def best_first(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Return the trials of one search that did not fail, ordered by their last rung.

    A target that is never kept is worse than any other; among those, and among equals, the best
    accuracy decides, then which was drawn first.
    """

    def cost(trial: Trial) -> tuple[float, float, int]:
        result, number = trial.results[-1], trial.setting.number
        kept = math.inf if result["kept_bytes"] is None else result["kept_bytes"]
        if objective == "accuracy":
            return -result["final"]["mean"], kept, number
        return kept, -result["best"]["mean"], number

    return sorted((trial for trial in trials if not trial.failed), key=cost)


def going_on(trials: Sequence[Trial], rung: int, objective: Objective) -> list[Trial]:
    """Return which trials of one search are in this rung, and note the ranks in that before."""
    found = best_first(trials, objective)
    size = rung_size(len(trials[0].search.settings), rung)
    for rank, trial in enumerate(found, 1):
        trial.rank = f"rank {rank} of {len(found)} in rung {rung - 1}"
    return found[:size]


def chosen(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """Return the best trial of one search in the last rung that one came through; None if none did.

    That is the last rung of all, or an earlier one where all that went on failed behind it.
    """
    sound = [trial for trial in trials if not trial.failed]
    last = max((len(trial.results) for trial in sound), default=0)
    found = best_first([trial for trial in sound if len(trial.results) == last], objective)
    return found[0] if found else None
