"""Nodes that do not answer cost a checkpoint, never the run; runs of one name do not mix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.config import RunConfig
from mfd_flower.runtime import mailbox
from mfd_flower.runtime.mailbox import Mailbox, NodeStateError
from mfd_flower.runtime.pass_through import PassThrough
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import local_grid, run_on

GONE = 2
"""Flower's id of the node that some tests lose."""


class StoppedError(Exception):
    """What a test stops a run with."""


class Leaves(PassThrough, Grid):
    """One node is not available from some of its messages of a kind on, for so many."""

    def __init__(self, grid: Grid, kind: str, after: int, messages: float = float("inf")) -> None:
        self._grid, self._kind = grid, kind
        self._window = (after, after + messages)
        self._count = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies: list[Message] = []
        for number, message in enumerate(messages):
            kind = message.metadata.message_type
            if message.metadata.dst_node_id == GONE:
                self._count += kind == self._kind
                if self._window[0] < self._count <= self._window[1]:
                    message.metadata.__dict__["_message_id"] = f"gone-{self._count}-{number}"
                    error = Error(ErrorCode.NODE_UNAVAILABLE, "the node is gone")
                    replies.append(Message(error, reply_to=message))
                    continue
            replies += self._grid.send_and_receive([message], timeout=timeout)
        return replies


class Silent(PassThrough, Grid):
    """Takes messages and never answers."""

    def __init__(self) -> None:
        pass

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = "asked"
            ids.append("asked")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return []


def run_while(
    run: RunConfig, files: RunFiles, leaves: tuple[Any, ...], stop_at: int = 99
) -> dict[str, Any]:
    def on_point(point: dict[str, Any]) -> None:
        if point["step"] == stop_at:
            raise StoppedError

    with local_grid(run, 1, files.checkpoints) as grid:
        return run_on(Leaves(grid, *leaves), run, on_point, files, save=lambda record: None)


@pytest.mark.parametrize("every", [0, 2, 10])
def test_a_node_that_is_gone_costs_no_run(
    make_run: Callable[..., RunConfig], tmp_path: Path, every: int
) -> None:
    run = make_run("fedavg", 4, model={"tune": "head"})
    record = run_while(run, RunFiles(tmp_path, "a", every), ("train", 1))
    assert [point["step"] for point in record["points"]] == [0, 1, 2, 3, 4]
    assert len(record["failures"]) == 3


def test_the_last_checkpoint_stays_whole_while_a_node_cannot_keep_its_state(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The other nodes go on writing states, and none of them drops what the checkpoint names."""
    run = make_run("local-only", 6, model={"tune": "head"})
    files = RunFiles(tmp_path, "a", 1, resume=True)
    with pytest.raises(StoppedError):
        run_while(run, files, ("query.keep", 1), stop_at=6)
    said: list[str] = []
    with local_grid(run, 1, files.checkpoints) as grid:
        again = run_on(grid, run, None, files, said.append)
    assert said == ["goes on behind step 1"]
    with local_grid(run, 1) as grid:
        whole = run_on(grid, run)
    assert [p["loss"] for p in again["points"]] == [p["loss"] for p in whole["points"]]


def test_who_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "SETTLE_S", 0.05)
    box = Mailbox(Silent(), {GONE: "n1"})
    box.push_messages([Message(RecordDict(), GONE, "train")])
    assert [box.settle(), box.settle()] == [False, True]


def test_runs_of_one_name_keep_their_states_apart(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """As two ServerApps do whose results have the same name, in folders of their own."""
    runs = [make_run("local-only", 4, seed, model={"tune": "head"}) for seed in (0, 1)]
    states, losses = tmp_path / "states", []
    for number, run in enumerate(runs):
        with local_grid(run, 1, states) as grid, pytest.raises(StoppedError):
            run_on(grid, run, stop_behind(2), RunFiles(tmp_path / str(number), "run", 1))
    for number, run in enumerate(runs):
        files = RunFiles(tmp_path / str(number), "run", 1, resume=True)
        with local_grid(run, 1, states) as grid:
            again = run_on(grid, run, None, files, save=lambda record: None)
        with local_grid(run, 1) as grid:
            whole = run_on(grid, run)
        losses.append([[p["loss"] for p in record["points"]] for record in (again, whole)])
    assert all(again == whole for again, whole in losses)
    assert not any(states.iterdir())


def test_a_run_that_begins_anew_leaves_no_states_of_its_earlier_start(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run, files, states = make_run("local-only", 3), RunFiles(tmp_path, "a", 1), tmp_path / "states"
    with local_grid(run, 1, states) as grid, pytest.raises(StoppedError):
        run_on(grid, run, stop_behind(1), files)
    assert any(states.iterdir())
    with local_grid(run, 1, states) as grid:
        run_on(grid, run, None, files, save=lambda record: None)
    assert not any(states.iterdir())


def test_a_damaged_state_of_a_node_ends_the_run_and_is_named(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run, states = make_run("local-only", 3, model={"tune": "head"}), tmp_path / "states"
    files = RunFiles(tmp_path, "a", 1, resume=True)
    with local_grid(run, 1, states) as grid, pytest.raises(StoppedError):
        run_on(grid, run, stop_behind(1), files)
    (state,) = states.rglob("n1/1.state")
    body = b"no records"
    for content in (b"", state.read_bytes()[:-1], hashlib.sha256(body).digest() + body):
        state.write_bytes(content)
        with local_grid(run, 1, states) as grid, pytest.raises(NodeStateError) as error:
            run_on(grid, run, None, files)
        assert f"state-dir = '{state}': no such state" in str(error.value)
        assert "\n" not in str(error.value)


def stop_behind(step: int) -> Callable[[dict[str, Any]], None]:
    def on_point(point: dict[str, Any]) -> None:
        if point["step"] > step:
            raise StoppedError

    return on_point
