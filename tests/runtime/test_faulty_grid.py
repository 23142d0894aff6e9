"""Each fault does what its kind says to the node, to its state and to the sender's reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from mfd_flower.accounting.wire import measure
from mfd_flower.checks import ConfigError
from mfd_flower.config import FaultsConfig, RunConfig
from mfd_flower.network.faults import DEATHS, drawn, generator
from mfd_flower.records import integer
from mfd_flower.runtime import runner
from mfd_flower.runtime.faulty_grid import FaultyGrid, Injected
from mfd_flower.runtime.local_grid import LocalGrid
from mfd_flower.runtime.metered_grid import MeteredGrid
from tests.scheduled_faults import Fault, ScheduledGrid

ADDRESSES = {1: "n0", 2: "n1", 3: "n2", 4: "n3"}
VALUES = np.arange(6, dtype=np.float32)
OK, LOST, DOWN, BROKEN, CUT, FLIPPED = "ok", "lost", "down", "app failed", "cut off", "flipped"
UNANSWERED = {ErrorCode.NODE_UNAVAILABLE: DOWN, ErrorCode.REPLY_MESSAGE_UNAVAILABLE: LOST}

calls: list[int] = []
app = ClientApp()


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()


@app.train()
def work(message: Message, context: Context) -> Message:
    """Echo the arrays, and count the visits in the node's own state."""
    calls.append(context.node_id)
    (values,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    seen = context.state.config_records.setdefault("seen", ConfigRecord({"count": 0}))
    seen["count"] = integer(seen, "count") + 1
    metrics = MetricRecord({"count": integer(seen, "count")})
    records = RecordDict({"arrays": ArrayRecord([values]), "metrics": metrics})
    return Message(records, reply_to=message)


@app.query()
def listen(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


def request(node_id: int = 1, kind: str = "train", source: str | None = None) -> Message:
    content = RecordDict({"arrays": ArrayRecord([VALUES])})
    if source:
        content["header"] = ConfigRecord({"source": source})
    return Message(content, node_id, kind)


def send(grid: FaultyGrid, message: Message) -> list[Message]:
    return list(grid.send_and_receive([message], timeout=60))


def push(grid: FaultyGrid, message: Message) -> list[Message]:
    (message_id,) = grid.push_messages([message])
    found: list[Message] = []
    while not found:
        found += grid.pull_messages([message_id])
    assert found[0].metadata.reply_to_message_id == message_id
    assert not list(grid.pull_messages([message_id]))
    return found


def outcome(replies: list[Message]) -> str:
    if not replies:
        return LOST
    (reply,) = replies
    if reply.has_error():
        return UNANSWERED.get(reply.error.code, BROKEN)
    (array,) = reply.content.array_records["arrays"].values()
    if len(array.data) < len(ArrayRecord([VALUES])["0"].data):
        return CUT
    return OK if np.array_equal(array.numpy(), VALUES) else FLIPPED


@pytest.mark.parametrize("exchange", [send, push])
@pytest.mark.parametrize(
    ("kind", "options", "outcomes", "called", "state"),
    [
        ("dies-before-training", {}, [OK, DOWN, DOWN, OK], [1, 0, 0, 1], 2),
        ("dies-before-training", {"silent": True}, [OK, LOST, LOST, OK], [1, 0, 0, 1], 2),
        ("dies-before-training", {"downtime": 0}, [OK, DOWN, OK, OK], [1, 0, 1, 1], 3),
        ("dies-before-training", {"downtime": None}, [OK, DOWN, DOWN, DOWN], [1, 0, 0, 0], 1),
        ("dies-during-training", {}, [OK, DOWN, DOWN, OK], [1, 0, 0, 1], 2),
        ("dies-after-training", {}, [OK, DOWN, DOWN, OK], [1, 1, 0, 1], 3),
        ("dies-after-training", {"silent": True}, [OK, LOST, LOST, OK], [1, 1, 0, 1], 3),
        ("dies-sending", {}, [OK, CUT, DOWN, OK], [1, 1, 0, 1], 3),
        ("dies-after-reply", {}, [OK, OK, DOWN, OK], [1, 1, 0, 1], 3),
        ("asleep", {"span": 2}, [OK, DOWN, DOWN, OK], [1, 0, 0, 1], 2),
        ("asleep", {"span": None}, [OK, DOWN, DOWN, DOWN], [1, 0, 0, 0], 1),
        ("request-lost", {}, [OK, LOST, OK, OK], [1, 0, 1, 1], 3),
        ("reply-lost", {}, [OK, LOST, OK, OK], [1, 1, 1, 1], 4),
        ("request-duplicated", {}, [OK, OK, OK, OK], [1, 2, 1, 1], 5),
        ("request-cut-off", {}, [OK, BROKEN, OK, OK], [1, 1, 1, 1], 3),
        ("reply-cut-off", {}, [OK, CUT, OK, OK], [1, 1, 1, 1], 4),
        ("request-corrupted", {}, [OK, FLIPPED, OK, OK], [1, 1, 1, 1], 4),
        ("reply-corrupted", {}, [OK, FLIPPED, OK, OK], [1, 1, 1, 1], 4),
    ],
)
def test_a_fault_hits_the_node_its_state_and_the_reply_as_its_kind_says(
    exchange: Any, kind: Any, options: Any, outcomes: list[str], called: list[int], state: int
) -> None:
    fault = Fault(kind, "n0", occurrence=2, **{"downtime": 1, **options})
    found, runs = [], []
    with LocalGrid(app, 2) as inner:
        grid = ScheduledGrid(inner, [fault], ADDRESSES)
        for _ in outcomes:
            before = len(calls)
            message = request()
            sent = message.content
            data = sent.array_records["arrays"]["0"].data
            found.append(outcome(exchange(grid, message)))
            assert outcome(exchange(grid, request(2))) == OK
            runs.append(calls[before:].count(1))
            assert message.content is sent
            assert sent.array_records["arrays"]["0"].data is data
            assert data == ArrayRecord([VALUES])["0"].data
        left = inner.contexts[1].state.config_records["seen"]["count"]
    assert (found, runs, left) == (outcomes, called, state)
    asleep = kind == "asleep"
    later = [n for n in (3, 4) if outcomes[n - 1] != OK]
    expected = [(kind, 2), *((kind if asleep else "down", n) for n in later)]
    assert grid.log == [(name, "n0", "train", n) for name, n in expected]


def test_a_duplicate_is_answered_by_its_first_reply() -> None:
    with LocalGrid(app, 1) as inner:
        grid = ScheduledGrid(inner, [Fault("request-duplicated", "n0")], ADDRESSES)
        counts = [send(grid, request())[0].content.metric_records["metrics"]["count"] for _ in "ab"]
    assert counts == [1, 3]


def test_a_late_reply_comes_by_its_own_id_and_to_nobody_else() -> None:
    with LocalGrid(app, 2) as inner:
        grid = ScheduledGrid(inner, [Fault("reply-delayed", "n0", late_by=2)], ADDRESSES)
        (late_id,) = grid.push_messages([request()])
        while not calls:
            assert not list(grid.pull_messages([late_id]))
        for _ in range(2):
            assert not list(grid.pull_messages(["of somebody else"]))
            (other,) = send(grid, request())
            assert other.metadata.reply_to_message_id != late_id
        (reply,) = grid.pull_messages([late_id])
        assert reply.metadata.reply_to_message_id == late_id
        assert reply.content.metric_records["metrics"]["count"] == 1
        assert not list(grid.pull_messages([late_id]))


def test_waiting_alone_brings_a_late_reply_in() -> None:
    with LocalGrid(app, 1) as inner:
        grid = ScheduledGrid(inner, [Fault("reply-delayed", "n0", late_by=3, span=2)], ADDRESSES)
        (late_id,) = grid.push_messages([request()])
        # The grid inside has one thread: behind this the first is answered.
        list(inner.send_and_receive([request(2)]))
        pulls = [len(list(grid.pull_messages([late_id]))) for _ in range(5)]
        assert pulls == [0, 0, 0, 1, 0]
        # Without a timeout the caller waits as long as it takes.
        assert len(list(grid.send_and_receive([request()]))) == 1


def test_a_partition_cuts_its_sides_apart_for_its_span() -> None:
    sides = (frozenset({"n0"}), frozenset({"n1", "n2"}))
    split = Fault("partition", groups=sides, occurrence=2, span=2)
    with LocalGrid(app, 4) as inner:
        grid = ScheduledGrid(inner, [split], ADDRESSES)
        across = [outcome(send(grid, request(2, source="n0"))) for _ in range(4)]
        server = [outcome(send(grid, request(3))) for _ in range(3)]
        within = [outcome(send(grid, request(3, source="n1"))) for _ in range(3)]
        beside = [outcome(send(grid, request(4, source="n0"))) for _ in range(3)]
    assert across == [OK, DOWN, DOWN, OK]
    assert server == within == beside == [OK, OK, OK]
    assert grid.injected == {"partition": 2}


def test_replies_keep_the_order_of_sending_around_missing_ones() -> None:
    faults = [Fault("request-lost", "n1"), Fault("asleep", "n2")]
    with LocalGrid(app, 4) as inner:
        grid = ScheduledGrid(inner, faults, ADDRESSES)
        replies = list(grid.send_and_receive([request(n) for n in (4, 3, 2, 1)], timeout=60))
    assert [r.metadata.src_node_id for r in replies] == [4, 3, 1]
    assert [r.has_error() for r in replies] == [False, True, False]


RATES = FaultsConfig(0.1, 0.04, 0.1, 0.1, 0.1, downtime=2)


def faults_of(workers: int, order: list[int]) -> tuple[list[Injected], list[tuple[int, str]]]:
    with LocalGrid(app, 4, workers=workers) as inner:
        grid = FaultyGrid(inner, RATES, 5, ADDRESSES)
        replies: list[Message] = []
        for _ in range(25):
            replies += grid.send_and_receive([request(n) for n in order], timeout=60)
    return grid.log, [(reply.metadata.src_node_id, outcome([reply])) for reply in replies]


def test_faults_depend_on_the_seed_and_on_no_thread_or_order() -> None:
    one = faults_of(1, [1, 2, 3, 4])
    assert len({entry.kind for entry in one[0]}) > 6
    assert faults_of(4, [1, 2, 3, 4]) == one
    other_order = faults_of(3, [4, 2, 1, 3])
    assert sorted(other_order[0]) == sorted(one[0])
    assert sorted(other_order[1]) == sorted(one[1])


def test_messages_of_another_type_change_nothing_while_nobody_is_down() -> None:
    def of_training(between: int) -> list[Injected]:
        with LocalGrid(app, 1) as inner:
            grid = FaultyGrid(inner, FaultsConfig(loss=0.5), 3, ADDRESSES)
            for _ in range(20):
                send(grid, request())
                for _ in range(between):
                    send(grid, request(kind="query"))
        return [entry for entry in grid.log if entry.message_type == "train"]

    assert 4 < len(of_training(0)) < 16
    assert of_training(2) == of_training(0)


def test_rates_are_met() -> None:
    """Each count lies within four standard deviations of its binomial."""
    rates = FaultsConfig(0.2, 0.1, 0.05, 0.1, 0.15)
    size = 4000
    found = [drawn(rates, generator("rates", 3, f"n{n % 7}", n)) for n in range(size)]
    kinds = [fault.kind if fault else "none" for fault in found]
    shares: dict[str, float] = {
        **{fault.kind: 0.02 for fault in DEATHS},
        "request-lost": 0.1,
        "reply-lost": 0.1,
        "request-duplicated": 0.05,
        "request-corrupted": 0.05,
        "reply-corrupted": 0.05,
        "reply-delayed": 0.15,
        "none": 0.4,
    }
    assert set(kinds) == set(shares)
    for kind, share in shares.items():
        assert abs(kinds.count(kind) - size * share) < 4 * (size * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("kind", ["request-corrupted", "reply-corrupted", "request-cut-off"])
def test_without_data_a_damaging_fault_takes_no_effect(kind: str) -> None:
    with LocalGrid(app, 1) as inner:
        grid = ScheduledGrid(inner, [Fault(kind, "n0")], ADDRESSES)
        (reply,) = send(grid, Message(RecordDict(), 1, "query"))
    assert reply.has_content()
    assert grid.log == []


@pytest.mark.parametrize(
    ("config", "called"), [({"corruption": 1.0}, {0, 1}), ({"death": 1.0, "downtime": 0}, {0, 1})]
)
def test_damage_that_flower_notices_does_not_arrive(
    config: dict[str, Any], called: set[int]
) -> None:
    found, runs = set(), set()
    with LocalGrid(app, 1) as inner:
        grid = FaultyGrid(inner, FaultsConfig(**config), 0, ADDRESSES, self_checked=["query"])
        for _ in range(30):
            before = len(calls)
            found.add(outcome(send(grid, request())))
            runs.add(len(calls) - before)
    assert found <= {DOWN, OK}
    assert DOWN in found
    assert runs == called


def test_a_lost_reply_is_billed_for_its_request_only() -> None:
    with LocalGrid(app, 2) as inner:
        faulty = ScheduledGrid(inner, [Fault("reply-lost", "n0")], ADDRESSES)
        grid = MeteredGrid(faulty, addresses={1: "n0", 2: "n1"})
        requests = [request(1), request(2)]
        (reply,) = grid.send_and_receive(requests, timeout=60)
    totals = grid.totals()
    assert totals["down"] == 2 * measure(requests[0].content).wire
    assert totals["up"] == measure(reply.content).wire


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"loss": 1.5}, r"^faults\.loss = 1\.5: must be at least 0 and at most 1$"),
        ({"death": -0.1}, r"^faults\.death = -0\.1: must be at least 0 and at most 1$"),
        ({"downtime": -1}, r"^faults\.downtime = -1: must be at least 0$"),
        ({"late_by": 0}, r"^faults\.late_by = 0: must be at least 1$"),
        ({"loss": 0.7, "delay": 0.7}, r"^faults: sum of the shares = 1\.4: at most 1$"),
    ],
)
def test_bad_settings_are_refused_by_name(options: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        RunConfig.from_tables({"faults": options})


@pytest.mark.parametrize("strategy", ["fedavg", "mfd-walk"])
def test_a_run_fails_as_often_as_its_settings_say(
    make_run: Callable[..., RunConfig], strategy: str
) -> None:
    faults = {"death": 0.15, "loss": 0.1, "corruption": 0.1, "downtime": 1}
    run = make_run(strategy, rounds=5, model={"tune": "head"}, faults=faults)
    record, again = (runner.run_locally(run, workers=workers) for workers in (1, 3))
    for point in (*record["points"], *again["points"]):
        point.pop("wall_seconds")
    assert record == again
    assert record["failures"]
    assert record["points"][-1]["accuracy"] > 0.5


def test_a_run_in_which_nothing_fails_has_no_faulty_grid(
    make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(runner, "FaultyGrid")
    assert runner.run_locally(make_run("fedavg"))["failures"] == []
