"""Live progress of a comparison: strategy, step, accuracy, megabytes so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mfd_flower.config import Comparison


def updates_of(comparison: Comparison) -> dict[str, int]:
    """Return the rounds of each run by key."""
    return {planned.key: planned.config.strategy.rounds for planned in comparison.runs}


@contextmanager
def watch(
    console: Console, comparison: Comparison, results: Mapping[str, Any]
) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Show a bar for all runs and one for each run that is under way.

    Without a terminal every run prints a line when it begins and at every tour or round.
    """
    rounds = updates_of(comparison)
    nodes = {planned.key: planned.config.data.nodes for planned in comparison.runs}
    total = len(comparison.runs)
    done = len(results["runs"])
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        overall = progress.add_task("runs", total=total, completed=done, state="")
        tasks: dict[str, Any] = {}
        finished = done
        last_round: dict[str, int] = {}

        def on_progress(key: str, point: dict[str, Any]) -> None:
            nonlocal finished
            if key not in tasks:
                tasks[key] = progress.add_task(key, total=rounds[key], state="")
                if not console.is_terminal:
                    console.print(f"{key}: begins", markup=False, soft_wrap=True)
            if not point:
                return
            # In one round every node updates once on average, whatever a strategy calls a step.
            per_round = nodes[key] if point["step"] > rounds[key] else None
            step = point["step"]
            at = step // nodes[key] if per_round or _hops(point, nodes[key]) else step
            state = (
                f"step {step}  accuracy {point['accuracy']:.3f}"
                f"  {point['bytes']['wire'] / 1e6:.2f} MB"
            )
            progress.update(tasks[key], completed=min(at, rounds[key]), state=state)
            if not console.is_terminal and at != last_round.get(key):
                last_round[key] = at
                console.print(f"{key}: {state}", markup=False, highlight=False, soft_wrap=True)
            if at >= rounds[key]:
                finished += 1
                progress.update(overall, completed=finished)
                progress.remove_task(tasks[key])

        yield on_progress


def _hops(point: Mapping[str, Any], nodes: int) -> bool:
    """Tell whether a step is one local update, as in a walk, and not a round of all nodes."""
    return bool(nodes > 1 and point["updates"] == point["step"])
