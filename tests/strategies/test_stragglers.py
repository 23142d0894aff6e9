"""FedAvg as it is run where nodes are slow: over-selection, deadlines, asynchronous aggregation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig, WireConfig
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
from strategies.fedbuff import FedBuff, _Begun
from tests.harness import trial

NODES = 6
NEAR = {"width_m": 100.0, "height_m": 100.0, "devices": ["phone-low"]}


def settings(
    strategy: str, rounds: int = 2, slowed: dict[str, float] | None = None, **options: Any
) -> RunConfig:
    world = {**NEAR, "slowed": slowed or {}}
    return RunConfig.from_tables(
        {
            "data": {"name": "digits", "nodes": NODES, "train_samples": 120, "test_samples": 50},
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": {"world": "wireless", "options": json.dumps(world)},
            "strategy": {"name": strategy, "rounds": rounds, "options": json.dumps(options)},
        }
    )


def points(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in point.items() if k != "wall_seconds"} for point in run["points"]]


def test_without_more_nodes_and_a_deadline_it_is_fedavg() -> None:
    plain = run_locally(settings("fedavg"))
    ours = run_locally(settings("fedavg-deadline", over_selection=0.0))
    assert points(ours) == points(plain)


def test_who_answers_first_counts_and_nobody_waits_for_the_others() -> None:
    """Six are asked and five waited for: a node 10^6 times slower costs its bytes alone."""
    slow = {"n2": 1e6}
    waits = run_locally(settings("fedavg", slowed=slow))
    options = {"fraction_train": 5 / NODES + 0.01, "over_selection": 0.2}
    ours = run_locally(settings("fedavg-deadline", slowed=slow, **options))
    ends = [found["points"][-1] for found in (waits, ours)]
    assert ends[0]["virtual_seconds"] > 1
    assert ends[1]["virtual_seconds"] < 0.2
    lost = [(each["node"], each["reason"]) for each in ours["failures"]]
    assert lost == [("n2", "no reply in time")] * 2
    # The requests to it were sent, its answers were not begun.
    assert ends[1]["bytes"]["down"] == ends[0]["bytes"]["down"]
    assert ends[1]["bytes"]["up"] == ends[0]["bytes"]["up"] * 5 / 6


def test_a_deadline_ends_a_round() -> None:
    slow = {"n2": 1e6, "n4": 1e6}
    ours = run_locally(settings("fedavg-deadline", slowed=slow, over_selection=0.0, deadline_s=0.5))
    lost = sorted(each["node"] for each in ours["failures"])
    assert lost == ["n2", "n2", "n4", "n4"]
    # A node that is still at work takes the next request up when it is done.
    assert ours["points"][-1]["virtual_seconds"] >= 1.0


def test_one_at_a_time_is_a_chain_of_updates() -> None:
    found = trial(settings("fedbuff", rounds=1, concurrency=1, buffer=1))
    assert found.steps == list(range(NODES + 1))
    assert found.grid.updates == NODES
    assert len(found.grid.visits) == NODES
    assert found.grid.virtual_seconds > 0


@pytest.mark.parametrize(("buffer", "steps"), [(1, 12), (3, 4), (5, 3), (50, 1)])
def test_a_full_buffer_is_a_step_and_the_last_one_need_not_be_full(buffer: int, steps: int) -> None:
    run = settings("fedbuff", concurrency=4, buffer=buffer)
    first, again = run_locally(run), run_locally(run)
    assert points(first) == points(again)
    assert [point["step"] for point in first["points"]] == list(range(steps + 1))
    assert first["points"][-1]["updates"] == 2 * NODES
    assert first["points"][-1]["accuracy"] > first["points"][0]["accuracy"]
    assert not first["failures"]


def test_a_slow_node_holds_up_itself_alone() -> None:
    """Its one update comes too late for all the others' steps."""
    slow = run_locally(settings("fedbuff", rounds=3, slowed={"n1": 1e5}, concurrency=3))
    even = run_locally(settings("fedbuff", rounds=3, concurrency=3))
    assert slow["visits"].count("n1") <= 2
    assert len(slow["visits"]) >= len(even["visits"]) == 3 * NODES
    before_last = [found["points"][-2]["virtual_seconds"] for found in (slow, even)]
    assert before_last[0] < 2 * before_last[1]


def test_an_update_that_others_overtook_counts_less() -> None:
    run = settings("fedbuff")
    strategy = build_strategy(run)
    assert isinstance(strategy, FedBuff)
    start, trained = (ArrayRecord({"w": torch.full((2,), v)}) for v in (1.0, 3.0))
    request = Message(RecordDict(), 1, "train")
    reply = Message(RecordDict({"arrays": trained}), reply_to=request)
    for version, weight in ((4, 1.0), (7, 0.5)):
        update = strategy._update(_Begun("n0", 4, start), reply, version)
        assert update is not None
        torch.testing.assert_close(update["w"], torch.full((2,), 2.0 * weight))
    made = strategy._stepped(start, [{"w": torch.full((2,), v)} for v in (1.0, 2.0)])
    torch.testing.assert_close(made["w"].numpy().tolist(), [2.5, 2.5])


@pytest.mark.parametrize(
    "arrays",
    [{}, {"v": torch.ones(2)}, {"w": torch.ones(3)}, {"w": torch.ones(2), "v": torch.ones(2)}],
)
def test_what_is_no_update_is_left_out(arrays: dict[str, torch.Tensor]) -> None:
    strategy = build_strategy(settings("fedbuff"))
    assert isinstance(strategy, FedBuff)
    answer = RecordDict({"arrays": ArrayRecord(arrays)} if arrays else {})
    reply = Message(answer, reply_to=Message(RecordDict(), 1, "train"))
    begun = _Begun("n0", 4, ArrayRecord({"w": torch.ones(2)}))
    assert strategy._update(begun, reply, 4) is None


@pytest.mark.parametrize(
    ("strategy", "options", "line"),
    [
        ("fedbuff", {"concurrency": 7}, "options.concurrency = 7: at most 6, the nodes"),
        ("fedbuff", {"buffer": 0}, "options.buffer = 0: must be at least 1"),
        (
            "fedavg-deadline",
            {"fraction_train": 0.0},
            "options.fraction_train = 0.0: ",
        ),
        ("fedavg-deadline", {"deadline_s": -1.0}, "options.deadline_s = -1.0: must be at least 0"),
    ],
)
def test_bad_options_are_one_line(strategy: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build_strategy(settings(strategy, **options))
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize("strategy", ["fedavg-deadline", "fedbuff"])
def test_what_they_send_is_coded_as_any_rounds_are(strategy: str) -> None:
    plain = settings(strategy)
    coded = replace(plain, wire=WireConfig(codec="int8"))
    whole, small = (run_locally(run)["points"][-1] for run in (plain, coded))
    assert small["bytes"]["payload"] < 0.3 * whole["bytes"]["payload"]
    assert small["accuracy"] == pytest.approx(whole["accuracy"], abs=0.1)
