"""LocalGrid keeps Flower's contract: order, isolation, error replies, calls side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from mfd_flower.runtime import LocalGrid

ROOT = Path(__file__).parents[2]
app = ClientApp()
barrier = threading.Barrier(2)


@app.query()
def whoami(message: Message, context: Context) -> Message:
    count = context.state.config_records.setdefault("seen", ConfigRecord({"count": 0}))
    count["count"] = int(count["count"]) + 1  # type: ignore[arg-type]
    index = int(context.node_config["partition-id"])
    record = ConfigRecord({"index": index, "count": count["count"]})
    return Message(RecordDict({"node": record}), reply_to=message)


@app.query("fail")
def fail(message: Message, context: Context) -> Message:
    raise ValueError(f"node {context.node_id} is out of order")


@app.query("meet")
def meet(message: Message, context: Context) -> Message:
    barrier.wait(timeout=20)
    return Message(RecordDict(), reply_to=message)


@app.query("scribble")
def scribble(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    config["x"] = 99
    config["many"].append(99)  # type: ignore[union-attr]
    message.content["more"] = ConfigRecord({"y": 1})
    return Message(RecordDict(), reply_to=message)


def ask(node_id: int, kind: str = "query") -> Message:
    return Message(RecordDict({"config": ConfigRecord({"x": 1})}), node_id, kind)


def test_replies_come_in_the_order_of_sending() -> None:
    with LocalGrid(app, 6) as grid:
        assert list(grid.get_node_ids()) == [1, 2, 3, 4, 5, 6]
        order = [4, 1, 6, 2]
        replies = list(grid.send_and_receive([ask(n) for n in order]))
    assert [r.metadata.src_node_id for r in replies] == order
    assert [r.content.config_records["node"]["index"] for r in replies] == [3, 0, 5, 1]


def test_state_is_a_nodes_own_and_lasts_the_run() -> None:
    with LocalGrid(app, 2) as grid:
        nodes = [1, 1, 2, 1]
        replies = list(grid.send_and_receive([ask(n) for n in nodes]))
        counts = [r.content.config_records["node"]["count"] for r in replies]
    assert counts == [1, 2, 1, 3]


def test_an_exception_is_flowers_error_reply() -> None:
    with LocalGrid(app, 2) as grid:
        good, bad, absent = grid.send_and_receive([ask(1), ask(2, "query.fail"), ask(9)])
    assert good.has_content()
    assert bad.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "node 2 is out of order" in str(bad.error.reason)
    assert absent.error.code == ErrorCode.NODE_UNAVAILABLE


def test_two_nodes_work_at_the_same_time() -> None:
    """Each call waits for the other: one after the other they would time out."""
    with LocalGrid(app, 2, workers=2) as grid:
        replies = grid.send_and_receive([ask(1, "query.meet"), ask(2, "query.meet")])
        assert all(r.has_content() for r in replies)


def test_push_and_pull_hand_each_reply_out_once() -> None:
    with LocalGrid(app, 3) as grid:
        ids = list(grid.push_messages([ask(1), ask(2), ask(3)]))
        found: list[Message] = []
        while len(found) < 3:
            found += grid.pull_messages(ids)
        assert {r.metadata.reply_to_message_id for r in found} == set(ids)
        assert not list(grid.pull_messages(ids))


def test_what_a_node_writes_into_a_message_stays_with_it() -> None:
    config = ConfigRecord({"x": 1, "many": [1]})
    shared = RecordDict({"config": config, "arrays": ArrayRecord()})
    with LocalGrid(app, 2) as grid:
        list(grid.send_and_receive([Message(shared, n, "query.scribble") for n in (1, 2)]))
    assert config == {"x": 1, "many": [1]}
    assert "more" not in shared


@pytest.mark.parametrize("workers", [1, 4])
def test_a_timeout_leaves_the_late_reply_for_later(workers: int) -> None:
    release = threading.Event()
    slow = ClientApp()

    @slow.query()
    def wait(message: Message, context: Context) -> Message:
        release.wait(timeout=20)
        return Message(RecordDict(), reply_to=message)

    with LocalGrid(slow, 1, workers=workers) as grid:
        assert not list(grid.send_and_receive([ask(1)], timeout=0.01))
        release.set()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away here")
def test_workers_are_as_many_as_the_cores_that_may_be_used() -> None:
    lines = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "from flwr.clientapp import ClientApp; from mfd_flower.runtime import LocalGrid",
        "print(LocalGrid(ClientApp(), 1)._pool._max_workers)",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
