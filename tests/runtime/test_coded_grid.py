"""Strategies of Flower's learn the same in fewer bytes, which are those of the closed form."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower import handlers
from mfd_flower.checks import ConfigError
from mfd_flower.coded_handler import RESIDUAL
from mfd_flower.config import RunConfig
from mfd_flower.node import Node, initial_tunables
from mfd_flower.records import from_bytes, tensors_of, to_bytes
from mfd_flower.runtime import runner
from mfd_flower.runtime.coded_grid import CodedGrid
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid, metered, run_locally
from mfd_flower.strategy import build_strategy
from mfd_flower.wire_codec import DATA, shapes_of
from tests.scheduled_faults import Fault, ScheduledGrid

MakeRun = Callable[..., RunConfig]
FLOWER = "flwr.serverapp.strategy:"
NODES, ROUNDS = 3, 3


@dataclass
class Trial:
    """What a run left."""

    tensors: dict[str, Tensor]
    meter: MeteredGrid
    contexts: dict[int, Context]

    def flat(self) -> Tensor:
        return torch.cat([self.tensors[name].flatten() for name in sorted(self.tensors)])


def trial(run: RunConfig, faults: Iterable[Fault] = ()) -> Trial:
    """Run a strategy as `run_on` does, without measuring."""
    start = ArrayRecord(dict(initial_tunables(run)))
    with local_grid(run, workers=1) as inner:
        addresses = call_roll(inner, run.data.nodes)
        meter = metered(ScheduledGrid(inner, faults, addresses), run, addresses)
        coded = CodedGrid(meter, run.wire, shapes_of(initial_tunables(run)))
        random.seed(0)
        grid = coded if run.wire.coded else meter
        result = build_strategy(run).start(grid, start, num_rounds=run.strategy.rounds)
    return Trial(dict(tensors_of(result.arrays)), meter, inner.contexts)


@pytest.fixture
def run_of(make_run: MakeRun) -> MakeRun:
    """Return a builder of runs by plain SGD, whose steps follow small differences smoothly."""

    def build(strategy: str = "fedavg", rounds: int = ROUNDS, **tables: Any) -> RunConfig:
        head, train = {"tune": "head"}, {"optimizer": "sgd", "lr": 0.3}
        return make_run(strategy, rounds, model=head, train=train, **tables)

    return build


def start_of(run: RunConfig) -> Tensor:
    tensors = initial_tunables(run)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def error(ours: Trial, theirs: Trial, run: RunConfig) -> float:
    """Return how far a model is from another, as a share of the way that that one went."""
    went = (theirs.flat() - start_of(run)).norm()
    return float((ours.flat() - theirs.flat()).norm() / went)


def test_by_default_nothing_is_in_the_way(run_of: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runner, "CodedGrid", fail)
    monkeypatch.setattr(handlers, "coded", fail)
    record = run_locally(run_of(wire={"codec": "fp32", "top_k": 1.0}))
    size = record["tunables"] * 4
    assert record["points"][-1]["bytes"]["payload"] == 2 * NODES * ROUNDS * size


@pytest.mark.parametrize(
    ("codec", "each", "a_row"), [("fp16", 2, 0), ("bf16", 2, 0), ("int8", 1, 4)]
)
def test_both_directions_are_billed_by_the_closed_form_and_accuracy_stays(
    run_of: MakeRun, codec: str, each: int, a_row: int
) -> None:
    plain, run = run_of(), run_of(wire={"codec": codec})
    theirs, ours = trial(plain), trial(run)
    classes = len(theirs.tensors["head.bias"])
    size = each * len(theirs.flat()) + a_row * (classes + 1)
    totals = ours.meter.totals()
    assert totals["payload"] == 2 * NODES * ROUNDS * size
    for link in ("up", "down"):
        overhead = theirs.meter.totals()[link] - NODES * ROUNDS * 4 * len(theirs.flat())
        assert NODES * ROUNDS * size < totals[link] <= NODES * ROUNDS * size + overhead
    assert 0 < error(ours, theirs, run) < 0.02


def test_an_exact_codec_changes_nothing_but_rounding(run_of: MakeRun) -> None:
    """All entries of each update travel, with a bitmap that says so."""
    run = run_of(wire={"top_k": 0.99999})
    theirs, ours = trial(run_of()), trial(run)
    assert torch.allclose(ours.flat(), theirs.flat(), rtol=0, atol=1e-6)
    size = len(ours.flat())
    payload = NODES * ROUNDS * (8 * size + math.ceil(size / 8))
    assert ours.meter.totals()["payload"] == payload


@pytest.mark.parametrize(("codec", "each", "more"), [("fp32", 4, 0), ("int8", 1, 4)])
def test_top_k_sends_so_many_entries_and_their_places(
    run_of: MakeRun, codec: str, each: int, more: int
) -> None:
    run, start = run_of(rounds=1, wire={"codec": codec, "top_k": 0.1}), start_of(run_of())
    ours, size, count = trial(run), len(start), math.ceil(len(start) / 10)
    changed = np.flatnonzero((ours.flat() - start).abs() > 1e-6)  # Averaging rounds the others.
    assert count < len(changed) <= NODES * count
    classes = len(ours.tensors["head.bias"])
    down = NODES * (each * size + (more and more * (classes + 1)))
    up = ours.meter.totals()["payload"] - down - NODES * (each * count + more)
    entropy = -size * (0.1 * np.log2(0.1) + 0.9 * np.log2(0.9)) / 8
    assert 0.8 * entropy < up / NODES < 1.1 * entropy
    # What the others keep is sent later: the longer, the nearer to what all entries do.
    errors = [
        error(trial(run_of(rounds=n, wire=wire)), trial(run_of(rounds=n)), run)
        for n, wire in [(12, {"codec": codec, "top_k": 0.1}), (2, {"codec": codec, "top_k": 0.1})]
    ]
    assert errors[0] < 0.6 * errors[1]


STRATEGIES = {
    "FedAvgM": {"server_momentum": 0.9},
    "FedAdam": {"eta": 0.05, "tau": 0.1},
    "FedYogi": {"eta": 0.05, "tau": 0.1},
    "FedAdagrad": {"eta": 0.05, "tau": 0.1},
    "FedProx": {"proximal_mu": 0.1},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.3},
    "Krum": {},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_flowers_strategies_learn_the_same_by_it(run_of: MakeRun, name: str) -> None:
    """FedAdam for one sees the mean update, and nothing of what was rounded on the way down."""
    plain = run_of(f"{FLOWER}{name}", options=STRATEGIES[name])
    run = run_of(f"{FLOWER}{name}", options=STRATEGIES[name], wire={"codec": "fp16"})
    sparse = run_of(f"{FLOWER}{name}", options=STRATEGIES[name], wire={"top_k": 0.3})
    theirs, ours = trial(plain), trial(run)
    assert error(ours, theirs, run) < 0.01
    assert error(trial(sparse), theirs, run) < 1
    assert ours.meter.failures == []


def test_what_nodes_measure_is_of_what_they_were_sent(run_of: MakeRun) -> None:
    options = {"fraction_evaluate": 1.0}
    run = run_of(rounds=1, options=options, wire={"codec": "int8"})
    record = run_locally(run)
    classes, size = 10, record["tunables"]
    coded = size + 4 * (classes + 1)
    assert record["points"][-1]["bytes"]["payload"] == 3 * NODES * coded
    plain = run_locally(run_of(rounds=1, options=options))
    theirs, ours = (each["points"][-1]["by_nodes"] for each in (plain, record))
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.02)
    assert ours["loss"] != theirs["loss"]


@pytest.mark.parametrize("wire", [{"codec": "int8"}, {"codec": "bf16", "top_k": 0.2}], ids=str)
def test_requests_that_come_twice_are_answered_as_those_that_come_once(
    run_of: MakeRun, wire: dict[str, Any]
) -> None:
    run = run_of(wire=wire)
    twice = [Fault("request-duplicated", f"n{node}", span=None) for node in range(NODES)]
    once, ours = trial(run), trial(run, twice)
    assert torch.equal(once.flat(), ours.flat())
    assert once.meter.totals() == ours.meter.totals()
    for node, context in once.contexts.items():
        assert to_bytes(context.state) == to_bytes(ours.contexts[node].state)
        residual = tensors_of(context.state.array_records[RESIDUAL])
        assert any(tensor.abs().max() > 0 for tensor in residual.values())


def test_a_node_that_died_or_whose_reply_is_lost_is_left_out_once(run_of: MakeRun) -> None:
    run = run_of(rounds=12, wire={"codec": "int8", "top_k": 0.3})
    faults = [Fault("reply-lost", "n0", 2), Fault("dies-after-training", "n1", 1, downtime=2)]
    theirs, ours = trial(run), trial(run, faults)
    assert len(ours.meter.failures) == 4
    assert 0 < error(ours, theirs, run) < 0.3
    faulty = run_of(rounds=4, wire={"top_k": 0.3}, faults={"loss": 0.2, "duplicate": 0.2})
    one, other = run_locally(faulty), run_locally(faulty)
    assert one["failures"]
    assert [p["loss"] for p in one["points"]] == [p["loss"] for p in other["points"]]


BAD = {
    "plain arrays": lambda size: {"arrays": ArrayRecord([np.zeros(size, np.float32)])},
    "nothing": lambda size: {},
    "two updates": lambda size: {"update": of_bytes(b""), "more": of_bytes(b"")},
    "another size": lambda size: {"update": of_bytes(bytes(2 * size - 1))},
    "not finite": lambda size: {"update": of_bytes(np.full(size, np.nan, "<f2").tobytes())},
    "huge": lambda size: {"update": of_bytes(np.full(size, 6e4, "<f2").tobytes())},
}


def of_bytes(data: bytes) -> ArrayRecord:
    return ArrayRecord({DATA: Array(np.frombuffer(data, np.uint8))})


@pytest.mark.parametrize("case", BAD)
def test_a_node_that_sends_anything_else_counts_as_failed(
    run_of: MakeRun, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    run = run_of(wire={"codec": "fp16"})
    without = trial(run, [Fault("reply-lost", "n1", span=None)])
    coded = handlers.coded

    def hostile(*args: Any) -> Any:
        handle = coded(*args)

        def answer(message: Message, context: Context) -> Message:
            reply = handle(message, context)
            if Node.of(context).index == 1:
                bad = BAD[case](len(start_of(run)))
                reply.content = RecordDict({**bad, "metrics": reply.content["metrics"]})
            return reply

        return answer

    monkeypatch.setattr(handlers, "coded", hostile)
    ours = trial(run)
    assert torch.equal(ours.flat(), without.flat())
    assert ours.meter.failed == ["n1"] * ROUNDS
    assert all(why.startswith("its answer is refused: ") for why in ours.meter.failures)
    record = run_locally(run)
    assert [failure["node"] for failure in record["failures"]] == ["n1"] * ROUNDS
    assert record["points"][-1]["accuracy"] > 0.15


def test_updates_that_are_not_finite_fail_the_run(run_of: MakeRun) -> None:
    run = run_of(wire={"codec": "fp16"})
    run = replace(run, train=replace(run.train, lr=1e30))
    with pytest.raises(runner.RunFailedError, match=r"n[0-2]: .* do not fit fp16$"):
        run_locally(run)


def test_requests_under_way_outlive_a_checkpoint(run_of: MakeRun) -> None:
    """What was pushed before, and lies answered behind the grid inside, is decoded after it."""
    run = run_of(wire={"codec": "int8", "top_k": 0.5})
    tensors = initial_tunables(run)
    content = RecordDict({"arrays": ArrayRecord(dict(tensors)), "config": ConfigRecord()})
    with local_grid(run, workers=1) as inner:
        addresses = call_roll(inner, NODES)

        def grid() -> CodedGrid:
            return CodedGrid(metered(inner, run, addresses), run.wire, shapes_of(tensors))

        first, second = grid(), grid()
        (asked,) = first.push_messages([Message(content, 1, "train")])
        second.load_state_dict(from_bytes(to_bytes(first.state_dict())))
        (expected,) = first.send_and_receive([Message(content, 1, "train")])
        (reply,) = second.pull_messages([asked])
    # The node was asked the same twice, and says so.
    assert to_bytes(reply.content) == to_bytes(expected.content)
    assert list(reply.content.array_records["arrays"]) == list(tensors)
    assert second.pull_messages([asked]) == []


@pytest.mark.parametrize(
    ("strategy", "wire", "said"),
    [
        ("gossip", {"codec": "fp16"}, r"wire\.codec = 'fp16': .*gossip.*: fp32"),
        ("mfd-walk", {"top_k": 0.5}, r"wire\.top_k = 0\.5: .*mfd-walk.*: 1\.0"),
        ("centralised", {"codec": "int8"}, r"wire\.codec = 'int8'"),
        (f"{__name__}:Loop", {"codec": "int8"}, r"wire\.codec = 'int8'"),
    ],
)
def test_strategies_with_messages_of_their_own_refuse_it(
    make_run: MakeRun, strategy: str, wire: dict[str, Any], said: str
) -> None:
    build_strategy(make_run(strategy))
    with pytest.raises(ConfigError, match=said):
        build_strategy(make_run(strategy, wire=wire))


class Loop(OwnLoop, Strategy):
    """A loop of its own, and the default client half."""
