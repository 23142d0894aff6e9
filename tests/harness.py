"""One run under watch: every message, every node's state, and the model that came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.config import RunConfig
from mfd_flower.network.worlds import new_world
from mfd_flower.node import evaluate_tunables, initial_tunables
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import local_grid, run_locally
from mfd_flower.strategy import build_strategy, links_of
from tests.scheduled_faults import Rates, Rule, ScheduledGrid

Change = Callable[[Message], None]


class Tap(MeteredGrid):
    """A wire tap that may change a request before it is sent.

    Attributes
    ----------
    requests, replies : list of Message
        Pairs where a reply came: ``requests[i]`` was answered by ``replies[i]``, None if by nobody.
    together : list of list of str
        After each push, the addresses whose replies are still to come.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.requests: list[Message] = []
        self.replies: list[Message | None] = []
        self.together: list[list[str]] = []
        self.change: Change = lambda request: None
        self._place: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, and note who is under way."""
        requests = self._changed(messages)
        ids = list(super().push_messages(requests))
        self._note(requests)
        waiting = [r for r, reply in zip(self.requests, self.replies, strict=True) if reply is None]
        self.together.append([self.address(r.metadata.dst_node_id) for r in waiting])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Collect, and pair each reply with its request."""
        return self._paired(super().pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask, and pair each reply with its request."""
        requests = self._changed(messages)
        replies = list(super().send_and_receive(requests, timeout=timeout))
        self._note(requests)
        return self._paired(replies)

    def of(self, message_type: str) -> list[tuple[Message, Message | None]]:
        """Return the requests of a type, each with its reply."""
        pairs = zip(self.requests, self.replies, strict=True)
        return [(a, b) for a, b in pairs if a.metadata.message_type == message_type]

    @property
    def kinds(self) -> Counter[str]:
        """Requests by message type."""
        return Counter(request.metadata.message_type for request in self.requests)

    def _changed(self, messages: Iterable[Message]) -> list[Message]:
        requests = list(messages)
        for request in requests:
            self.change(request)
        return requests

    def _note(self, requests: Sequence[Message]) -> None:
        for request in requests:
            self._place[request.metadata.message_id] = len(self.requests)
            self.requests.append(request)
            self.replies.append(None)

    def _paired(self, replies: Iterable[Message]) -> list[Message]:
        found = list(replies)
        for reply in found:
            self.replies[self._place[reply.metadata.reply_to_message_id]] = reply
        return found


@dataclass
class Trial:
    """A run that has ended.

    Attributes
    ----------
    steps, models : list
        Of every evaluation: its number, and the arrays.
    contexts : dict of str to Context
        Each node's, with its state as the run left it.
    tensors : dict of str to Tensor
        The final model.
    """

    run: RunConfig
    strategy: Strategy
    grid: Tap
    faults: ScheduledGrid
    contexts: dict[str, Context]
    tensors: dict[str, Tensor]
    steps: list[int] = field(default_factory=list)
    models: list[ArrayRecord | Mapping[str, ArrayRecord]] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Of the final model on the test set."""
        return evaluate_tunables(self.run, self.tensors).accuracy


def trial(
    run: RunConfig,
    faults: Sequence[Rule] = (),
    change: Change | None = None,
    workers: int | None = None,
    timeout: float = 60,
) -> Trial:
    """Run on a `LocalGrid` with everything recorded.

    Parameters
    ----------
    run : RunConfig
        Settings.
    faults : sequence of Rule
        What goes wrong; without them what the settings ask for.
    change : callable, optional
        May change each request before it is billed and sent.
    workers : int, optional
        Threads of the grid.
    timeout : float
        Wall seconds that the strategy waits for an answer.
    """
    strategy = build_strategy(run)
    steps: list[int] = []
    models: list[ArrayRecord | Mapping[str, ArrayRecord]] = []

    def evaluate(step: int, arrays: ArrayRecord | Mapping[str, ArrayRecord]) -> None:
        steps.append(step)
        models.append(arrays)

    with local_grid(run, workers) as inner:
        addresses = call_roll(inner, run.data.nodes)
        faulty = ScheduledGrid(inner, faults or [Rates(run.faults, run.seed)], addresses)
        world = new_world(run.network, run.data.nodes, run.seed)
        grid = Tap(faulty, links_of(type(strategy), run), world, addresses)
        grid.change = change or grid.change
        result = strategy.start(
            grid,
            ArrayRecord(dict(initial_tunables(run))),
            num_rounds=run.strategy.rounds,
            timeout=timeout,
            evaluate_fn=evaluate,  # type: ignore[arg-type]
        )
        contexts = {addresses[node_id]: inner.contexts[node_id] for node_id in addresses}
    tensors = dict(result.arrays.to_torch_state_dict())
    return Trial(run, strategy, grid, faulty, contexts, tensors, steps, models)


def whole_and_stopped(
    run: RunConfig, folder: Path, *stops: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Return the points of a run, without wall time, and those of one that is stopped on its way.

    Stopped when step number `stops` was measured, the first one of them first, and every time gone
    on with from the files in `folder`; the last ones are the lines that a run says when it goes on.
    """
    points, said = run_locally(run)["points"], list[str]()
    files = RunFiles(folder, "a", 1, resume=True)
    for stop in stops:

        def on_point(point: dict[str, Any], stop: int = stop) -> None:
            if point["step"] == stop:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            run_locally(run, on_point, files=files, say=said.append)
    again = run_locally(run, files=files, say=said.append)["points"]
    for point in (*points, *again):
        del point["wall_seconds"]
    return points, again, said
