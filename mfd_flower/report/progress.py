"""Live progress of a comparison: strategy, step, accuracy, megabytes so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mfd_flower.comparison import Comparison, PlannedRun

Say = Callable[[str], None]


class Watcher:
    """Shows a bar for all runs and one for each run that is under way.

    A run gives `log` a line when it begins, after every tenth of its way, and when it ends, and so
    does what else is told of it. The console gets them too, on a terminal only the latter.
    """

    def __init__(
        self, progress: Progress, log: Say, planned: Mapping[str, PlannedRun], done: int
    ) -> None:
        self._progress = progress
        self._log = log
        self._planned = planned
        self._overall = progress.add_task("all runs", total=len(planned), completed=done, state="")
        self._bars: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._tenth: dict[str, int] = {}

    def __call__(self, key: str, event: Mapping[str, Any] | str) -> None:
        """Show that a run begins, measured a point, or ends; what comes after its end is old."""
        if key in self._ended:
            return
        if event == "begins":
            if key in self._bars:
                self._progress.remove_task(self._bars[key])
            self._bars[key] = self._progress.add_task(key, total=1.0, state="")
            self._say(f"{key}: begins")
        elif isinstance(event, Mapping):
            self._show(key, event)
        elif event != "ends":
            self._say(f"{key}: {event}", always=True)
        else:
            self._ended.add(key)
            self._say(f"{key}: ends")
            if key in self._bars:
                self._progress.remove_task(self._bars.pop(key))
            self._progress.advance(self._overall)

    def _show(self, key: str, point: Mapping[str, Any]) -> None:
        config = self._planned[key].config
        rounds = config.strategy.rounds
        # A step is a round of all nodes in FedAvg and one update in a walk.
        share = min(point["step"] / rounds, point["updates"] / (rounds * config.data.nodes))
        sent = point["bytes"]["wire"] / 1e6
        state = f"step {point['step']}  accuracy {point['accuracy']:.3f}  {sent:.2f} MB"
        self._progress.update(self._bars[key], completed=share, state=state)
        if int(10 * share) > self._tenth.get(key, -1):
            self._tenth[key] = int(10 * share)
            self._say(f"{key}: {state}")

    def _say(self, line: str, always: bool = False) -> None:
        self._log(line)
        console = self._progress.console
        if always or not console.is_terminal:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watch(console: Console, log: Say, comparison: Comparison, done: int) -> Iterator[Watcher]:
    """Show progress while the block runs; `done` runs are finished already."""
    texts = ("{task.description}", "{task.percentage:>3.0f}%", "{task.fields[state]}")
    # Labels may hold brackets, which would be read as markup.
    name, share, state = (TextColumn(text, markup=False) for text in texts)
    columns = (name, BarColumn(bar_width=24), share, state, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Watcher(progress, log, {planned.key: planned for planned in comparison.runs}, done)
