"""What each node gave: exactly what the sums are without it, measured where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import ridge, solve, squared_error
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import shard
from mfd_flower.models.rounded import Rounding, scale_of
from mfd_flower.models.sums import Sums, SumsError
from mfd_flower.node import Node, initial_tunables, with_head
from mfd_flower.report.page import write_report
from mfd_flower.runtime.compare import compare
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.custody import packet_in
from tests.harness import trial
from tests.scheduled_faults import Fault

NODES = 5


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(**tables: Any) -> RunConfig:
        told = {"traits": {"contributions": {}}, **tables.pop("options", {})}
        data = {"nodes": NODES, "train_samples": 150, "partition": "classes", "classes": 3}
        tables.setdefault("model", {"tune": "head"})
        return make_run("exact-walk", 1, data=data, options=told, **tables)

    return build


def parts(run: RunConfig) -> list[Sums]:
    scale, classes = scale_of(run, Rounding()), federation_of(run).num_classes
    shards = [shard(run, node) for node in range(NODES)]
    return [Sums.of(scale.rounded(s.inputs[:].numpy()), s.labels.numpy(), classes) for s in shards]


@pytest.mark.parametrize("walkers", [1, 2])
@pytest.mark.parametrize("topology", ["full", "ring"])
def test_each_node_measures_the_federation_without_itself(
    settings: Callable[..., RunConfig], walkers: int, topology: str
) -> None:
    run = settings(options={"walkers": walkers}, network={"topology": topology})
    told = {each["node"]: each for each in run_locally(run)["contributions"]}
    every = parts(run)
    assert sorted(told) == [f"n{i}" for i in range(NODES)]
    whole = sum(every[1:], every[0])
    for index in range(NODES):
        others = [part for i, part in enumerate(every) if i != index]
        rest, found = sum(others[1:], others[0]), told[f"n{index}"]
        for name, sums in (("with", whole), ("without", rest)):
            model = with_head(run, initial_tunables(run), solve("ridge", sums), Rounding())
            wanted = Node(run, index).evaluate(model)
            assert found[f"accuracy_{name}"] == pytest.approx(wanted.accuracy, abs=1e-6)
            assert found[f"loss_{name}"] == pytest.approx(wanted.loss, rel=1e-5)
            error = squared_error(sums, whole)
            assert found[f"squared_error_{name}"] == pytest.approx(error, rel=1e-9)
        assert found["samples"] == every[index].samples


def test_the_error_over_everybody_is_that_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-7, 8, (80, 6)), rng.integers(0, 3, 80)
    some, everybody = Sums.of(x[:50], y[:50], 3), Sums.of(x, y, 3)
    wanted = ((ridge(some).logits(x) - np.eye(3)[y]) ** 2).sum(1).mean()
    assert squared_error(some, everybody) == pytest.approx(wanted, rel=1e-9)


def test_the_second_round_changes_no_sum_and_is_billed(settings: Callable[..., RunConfig]) -> None:
    once = trial(settings(options={"traits": {}}))
    twice = trial(settings())
    sent = [packet_in(q.content) for q, _ in twice.grid.of("train.hop")]
    assert len(sent) == 2 * NODES - 1
    last = sent[-1]
    assert {p.version for p in sent[NODES:]} == {last.version}
    size = len(last.payload["sums"])
    before, after = (found.grid.totals()["payload"] for found in (once, twice))
    assert after - before == (NODES - 1) * size
    assert twice.grid.updates == once.grid.updates == NODES


def test_a_node_that_is_gone_is_left_out(settings: Callable[..., RunConfig]) -> None:
    run = settings()
    gone = Fault("asleep", "n2", message_type="train.hop", occurrence=2, span=None)
    found = trial(run, [gone], timeout=0.3)
    assert found.strategy.included == [f"n{i}" for i in range(NODES)]  # type: ignore[attr-defined]
    told = [each["node"] for each in found.strategy.contributions]  # type: ignore[attr-defined]
    assert told == ["n0", "n1", "n3", "n4"]


def test_who_is_missing_is_said_in_the_results(settings: Callable[..., RunConfig]) -> None:
    found = trial(settings(), [Fault("asleep", "n3", span=None)], timeout=0.2)
    assert found.strategy.missing == ["n3"]  # type: ignore[attr-defined]
    told = [each["node"] for each in found.strategy.contributions]  # type: ignore[attr-defined]
    assert told == ["n0", "n1", "n2", "n4"]


def test_a_session_measures_on_what_it_froze(settings: Callable[..., RunConfig]) -> None:
    run = settings(
        model={"tune": "prompts", "prompts": 2, "prompt_from": 5}, options={"session": 1}
    )
    record = run_locally(run)
    assert len(record["contributions"]) == NODES
    assert record["included"] == [f"n{i}" for i in range(NODES)]
    assert record["missing"] == []


def test_sums_that_were_never_added_are_not_taken_out() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-7, 8, (80, 6)), rng.integers(0, 3, 80)
    few, many = Sums.of(x[:10], y[:10], 3), Sums.of(x, y, 3)
    with pytest.raises(SumsError, match="80 samples: they are not among these 10"):
        few.without(many)


def test_the_report_shows_what_each_node_gave(
    settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = settings()
    tables = {
        "seeds": [0],
        **{name: asdict(getattr(run, name)) for name in ("model", "train")},
        "data": asdict(run.data) | {"options": {}},
        "strategies": [{"strategy": "exact-walk", "rounds": 1, "options": run.strategy.keywords()}],
    }
    results = compare(tables, tmp_path / "out", jobs=1)
    page = write_report(tmp_path / "out", results).read_text()
    (told,) = (record["contributions"] for record in results.runs)
    assert "What each node gave</h3>" in page
    assert "seed 0, contribution: leave-one-out</caption>" in page
    for each in told:
        assert f"<td>{each['node']}</td><td>{each['samples']}</td>" in page
        assert f"<td>{each['squared_error_without']:.4f}</td>" in page
