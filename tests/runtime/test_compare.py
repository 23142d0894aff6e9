"""A comparison keeps every finished run, resumes, and never mixes results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import Comparison, comparison_from_tables
from mfd_flower.config import RunConfig
from mfd_flower.report.report import write_report
from mfd_flower.runtime.compare import check, open_results, run_comparison

TABLES: dict[str, Any] = {
    "seeds": [0, 1],
    "data": {"name": "digits", "nodes": 3, "train_samples": 48, "test_samples": 40},
    "model": {"tune": "head"},
    "strategies": [
        {"strategy": "fedavg", "rounds": 2},
        {"strategy": "mfd-walk", "rounds": 2},
        {"strategy": "mfd-walk", "label": "prompts", "rounds": 1, "model": {"tune": "prompts"}},
    ],
}
SCHEMA = {
    "step",
    "updates",
    "accuracy",
    "loss",
    "macro_f1",
    "bytes",
    "virtual_seconds",
    "joules",
    "flops",
    "peak_node_bytes",
    "wall_seconds",
}


class Silence:
    def begin(self, key: str) -> None: ...

    def point(self, key: str, point: Any) -> None: ...

    def end(self, key: str) -> None: ...


class Broken(FedAvg):
    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        raise RuntimeError("out of order")


class Half(FedAvg):
    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        return list(super().configure_train(*args, **keywords))[:1]


def comparison(**changes: Any) -> Comparison:
    return comparison_from_tables({**TABLES, **changes}, "test")


def run(plan: Comparison, folder: Path, **flags: bool) -> dict[str, Any]:
    flags = {"resume": False, "overwrite": False, **flags}
    results = open_results(folder, plan, **flags)
    return run_comparison(plan, folder, results, Silence())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(comparison(), folder)
    return folder


def test_results_follow_the_schema(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["schema"] == 1
    assert len(results["runs"]) == 6
    for entry in results["runs"]:
        assert {"strategy", "seed", "nodes", "points", "scenario"} <= entry.keys()
        totals = [point["bytes"] for point in entry["points"]]
        for point in entry["points"]:
            assert set(point) == SCHEMA
            assert set(point["bytes"]) == {
                "payload", "wire", "relay", "up", "down", "d2d", "backhaul",
            }  # fmt: skip
            parts = sum(point["bytes"][k] for k in ("up", "down", "d2d", "backhaul"))
            assert parts == point["bytes"]["wire"]
        for earlier, later in itertools.pairwise(totals):
            assert all(later[k] >= earlier[k] for k in earlier)
        updates = [point["updates"] for point in entry["points"]]
        assert updates == sorted(updates)
    rows = results["summary"]["base"]["rows"]
    assert [row["strategy"] for row in rows] == ["fedavg", "mfd-walk", "prompts"]
    assert not rows[2]["same_payload"]


def test_all_strategies_start_from_the_same_model_and_data(finished: Path) -> None:
    runs = json.loads((finished / "results.json").read_text())["runs"]
    first = {(r["strategy"], r["seed"]): r["points"][0] for r in runs}
    for seed in (0, 1):
        assert first["fedavg", seed]["loss"] == first["mfd-walk", seed]["loss"]
    assert first["fedavg", 0]["loss"] != first["fedavg", 1]["loss"]


def test_resume_does_only_what_is_missing(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    kept = results["runs"][:4]
    kept[0]["wall_seconds"] = -1.0  # would be overwritten if it ran again
    (tmp_path / "results.json").write_text(json.dumps({**results, "runs": kept}))
    with pytest.raises(ConfigError, match="unfinished comparison; --resume or --overwrite"):
        open_results(tmp_path, comparison(), resume=False, overwrite=False)
    again = run(comparison(), tmp_path, resume=True)
    assert again["runs"][0]["wall_seconds"] == -1.0
    strip = ("wall_seconds",)
    for one, two in zip(again["runs"], results["runs"], strict=True):
        for entry in (one, two):
            for point in (entry, *entry["points"]):
                for key in strip:
                    point.pop(key, None)
        assert one == two


def test_results_of_another_comparison_are_refused(finished: Path) -> None:
    before = (finished / "results.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(ConfigError, match="another comparison; --overwrite"):
            open_results(finished, comparison(margin=0.02), resume=resume, overwrite=False)
    assert (finished / "results.json").read_bytes() == before


def test_a_report_is_self_contained(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    page = write_report(finished, results).read_text()
    assert page.count("<svg") == 3 + 2  # three figures, and the paths of two walks
    hops = [p for r in results["runs"][2:4] if r["seed"] == 0 for p in r["points"][2:]]
    for point in hops:
        assert f"accuracy {point['accuracy']:.3f}, {point['bytes']['wire']} bytes" in page
    for outside in ("src=", "@import", "<script", "<link"):
        assert outside not in page
    for row in results["summary"]["base"]["rows"]:
        assert row["strategy"] in page
    lines = (finished / "rounds.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(r["points"]) for r in results["runs"])
    assert {p.suffix for p in finished.glob("accuracy-0*")} == {".png", ".svg"}


def test_a_failing_run_leaves_the_finished_ones(tmp_path: Path) -> None:
    strategies = [
        {"strategy": "fedavg", "rounds": 1},
        {"strategy": "tests.runtime.test_compare:Broken", "rounds": 1},
    ]
    plan = comparison(strategies=strategies, seeds=[0])
    results = open_results(tmp_path, plan, resume=False, overwrite=False)
    with pytest.raises(RuntimeError, match="out of order"):
        run_comparison(plan, tmp_path, results, Silence(), jobs=1)
    left = json.loads((tmp_path / "results.json").read_text())
    assert [r["strategy"] for r in left["runs"]] == ["fedavg"]


def test_everything_is_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"data\.classes = 11"):
        check(
            comparison(scenarios=[{"name": "x", "data": {"partition": "classes", "classes": 11}}])
        )
    with pytest.raises(ConfigError, match="strategy = 'fedsgd'"):
        check(comparison(strategies=[{"strategy": "fedsgd"}]))
    with pytest.raises(ConfigError, match=r"strategies\.options\.eta"):
        check(comparison(strategies=[{"strategy": "fedavg", "options": {"eta": 1}}]))


def test_a_strategy_from_anywhere_is_billed(make_run: Callable[..., RunConfig]) -> None:
    from mfd_flower.runtime.runner import run_locally

    record = run_locally(make_run("tests.runtime.test_compare:Half", rounds=2))
    assert record["points"][-1]["updates"] == 2
    assert record["points"][-1]["bytes"]["payload"] == 2 * 2 * 4 * record["tunables"]
