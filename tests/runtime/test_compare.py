"""A comparison keeps every finished run, resumes, and never mixes results."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flwr.app import Context, Message
from flwr.serverapp.strategy import FedAvg

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import Comparison, comparison_from_tables
from mfd_flower.config import RunConfig
from mfd_flower.handlers import train
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.report.page import write_report
from mfd_flower.results import Results
from mfd_flower.runtime.compare import RunsFailedError, check, compare, run
from mfd_flower.runtime.runner import RunFailedError, run_locally

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
    "visits",
    "accuracy",
    "macro_accuracy",
    "loss",
    "validation_accuracy",
    "validation_loss",
    "bytes",
    "virtual_seconds",
    "joules",
    "flops",
    "peak_node_bytes",
    "busiest_node_bytes",
    "wall_seconds",
}


class Broken(FedAvg):
    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        raise RuntimeError("out of order")


class Killed(FedAvg):
    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Deaf(FedAvg):
    """Like a run in whose training Lightning listens to the signal that ends a process."""

    def configure_train(self, server_round: int, *args: Any, **keywords: Any) -> Any:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if server_round > 1:
            threading.Event().wait()
        return super().configure_train(server_round, *args, **keywords)


def train_unless_n1(message: Message, context: Context) -> Message:
    if context.node_config["partition-id"] == 1:
        raise ValueError("n1 is out of order")
    return train(message, context)


class OneFails(FedAvg):
    client_actions: ClassVar = {"train": train_unless_n1}


class Half(FedAvg):
    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        return list(super().configure_train(*args, **keywords))[:1]


def comparison(**changes: Any) -> Comparison:
    return comparison_from_tables({**TABLES, **changes}, "test")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    compare(comparison(), folder)
    return folder


def test_results_follow_the_schema(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["schema"] == 2
    assert len(results["runs"]) == 6
    for entry in results["runs"]:
        assert {"strategy", "seed", "nodes", "points", "scenario"} <= entry.keys()
        assert (entry["models"], entry["failures"]) == (None, [])
        label = f"{entry['strategy']}-seed-{entry['seed']}"
        for kind, path in (("final", entry["model"]), ("best", entry["best"]["model"])):
            assert re.fullmatch(rf"models/[0-5]-{label}-{kind}\.safetensors", path)
            kept = TrainedModel.load(finished / path)
            assert (kept.about.classes, kept.about.made["strategy"]) == (
                tuple("0123456789"),
                entry["settings"]["strategy.name"],
            )
        assert entry["strategy_file"].keys() == {"path", "sha256"}
        assert not Path(entry["strategy_file"]["path"]).is_absolute()
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
    assert rows[1]["payload"] != rows[2]["payload"]
    for row in rows:
        assert row.keys() >= {"targets", "kept_bytes", "first_bytes", "trailing_bytes"}


def test_all_strategies_start_from_the_same_model_and_data(finished: Path) -> None:
    runs = json.loads((finished / "results.json").read_text())["runs"]
    first = {(r["strategy"], r["seed"]): r["points"][0] for r in runs}
    for seed in (0, 1):
        assert first["fedavg", seed]["loss"] == first["mfd-walk", seed]["loss"]
    assert first["fedavg", 0]["loss"] != first["fedavg", 1]["loss"]


def without_wall_time(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for entry in runs:
        for timed in (entry, *entry["points"]):
            timed.pop("wall_seconds")
    return runs


def test_resume_does_only_what_is_missing(finished: Path, tmp_path: Path) -> None:
    results = Results.load(finished)
    results.runs[4:] = []
    results.runs[0]["wall_seconds"] = -1.0  # would be overwritten if it ran again
    results.save(tmp_path)
    with pytest.raises(ConfigError, match="unfinished comparison; --resume or --overwrite"):
        compare(comparison(), tmp_path)
    again = compare(comparison(), tmp_path, resume=True)
    assert again.runs[0]["wall_seconds"] == -1.0
    assert without_wall_time(again.runs) == without_wall_time(Results.load(finished).runs)


def test_before_any_run_has_ended_the_checkpoints_tell_whose_they_are(tmp_path: Path) -> None:
    tables = {**TABLES, "checkpoint_every": 1, "strategies": [TABLES["strategies"][1]]}

    def stopped_at(step: int) -> Any:
        def hear(key: str, event: Any) -> None:
            if isinstance(event, dict) and event["step"] >= step:
                raise KeyboardInterrupt

        return lambda planned, done: nullcontext(hear)

    with pytest.raises(KeyboardInterrupt):
        compare(tables, tmp_path, jobs=1, watch=stopped_at(3))
    with pytest.raises(ConfigError, match="unfinished comparison; --resume or --overwrite"):
        compare(tables, tmp_path)
    with pytest.raises(ConfigError, match="another comparison; --overwrite"):
        compare({**tables, "seeds": [3]}, tmp_path, resume=True)
    compare(tables, tmp_path, resume=True)
    assert not (tmp_path / "checkpoints").exists()


def test_a_stop_before_the_first_checkpoint_leaves_none(tmp_path: Path) -> None:
    """So that the same command begins anew without being told to."""

    def hear(key: str, event: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare(TABLES, tmp_path, jobs=1, watch=lambda planned, done: nullcontext(hear))
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_results_from_before_there_was_a_setting_are_taken_up(
    finished: Path, tmp_path: Path
) -> None:
    """As long as it has its default now; what is not as it is by default is never passed over."""
    kept = json.loads((finished / "results.json").read_text())
    for each in kept["config"]["runs"]:
        del each["settings"]["network.sample_s"]
    (tmp_path / "results.json").write_text(json.dumps(kept))
    assert len(compare(comparison(), tmp_path, resume=True).runs) == len(kept["runs"])
    kept["config"]["runs"][0]["settings"]["network.gone"] = 1.0
    (tmp_path / "results.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="another comparison; --overwrite"):
        compare(comparison(), tmp_path, resume=True)
    (tmp_path / "results.json").write_text(json.dumps({**kept, "config": {"runs": 3, "name": ""}}))
    with pytest.raises(ConfigError):
        compare(comparison(), tmp_path, resume=True)


def test_results_of_another_comparison_are_refused(finished: Path) -> None:
    before = (finished / "results.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(ConfigError, match="another comparison; --overwrite"):
            compare(comparison(margin=0.02), finished, resume=resume)
    assert (finished / "results.json").read_bytes() == before


def test_a_report_is_self_contained(finished: Path) -> None:
    results = Results.load(finished)
    page = write_report(finished, results).read_text()
    assert page.count("<svg") == 3 + 2  # three figures, and the paths of two walks
    hops = [p for r in results.runs[2:4] if r["seed"] == 0 for p in r["points"][2:]]
    for point in hops:
        assert f"accuracy {point['accuracy']:.3f}, {point['bytes']['wire']} bytes" in page
    for outside in ("src=", "@import", "<link", "fetch(", "import(", "XMLHttpRequest"):
        assert outside not in page
    assert page.count("<canvas") == 1
    for row in results.summary["base"]["rows"]:
        assert row["strategy"] in page
    for name, lines in (("rounds", len(results.frame())), ("summary", 3)):
        with (finished / f"{name}.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == lines
    assert {p.suffix for p in finished.glob("accuracy-0*")} == {".png", ".svg"}


def test_a_frame_has_a_row_for_every_point(finished: Path) -> None:
    results = Results.load(finished)
    frame = results.frame()
    assert len(frame) == sum(len(entry["points"]) for entry in results.runs)
    entry = results.runs[3]
    mine = frame[(frame.strategy == entry["strategy"]) & (frame.seed == entry["seed"])]
    assert list(mine.accuracy) == [point["accuracy"] for point in entry["points"]]
    assert list(mine.bytes_wire) == [point["bytes"]["wire"] for point in entry["points"]]


def test_one_strategy_of_a_comparison_runs_as_its_entry_says(finished: Path) -> None:
    alone = run("mfd-walk", {**TABLES, "seeds": [0]}, jobs=1)
    (entry,) = without_wall_time(alone.runs)
    kept = without_wall_time(Results.load(finished).runs)[2]
    files = {"model": None, "models": None, "best": None}
    assert entry == kept | files


def test_labels_that_differ_in_their_last_letter_have_files_of_their_own(tmp_path: Path) -> None:
    """Names of files are cut short; the report has the labels in full."""
    labels = ["a" * 199 + end for end in "bc"]
    signed = {"strategy": "mfd-walk", "options": {"traits": {"ledger": {}}}}
    entries = [{**signed, "label": label, "rounds": n} for n, label in enumerate(labels, 1)]
    tables = {**TABLES, "checkpoint_every": 1, "seeds": [0], "strategies": entries}
    results = compare(tables, tmp_path, jobs=1)
    models = [TrainedModel.load(tmp_path / entry["model"]) for entry in results.runs]
    assert [model.about.made["metrics"]["step"] for model in models] == [3, 6]
    assert len({entry["ledger"] for entry in results.runs}) == 2
    assert all((tmp_path / entry["ledger"]).is_file() for entry in results.runs)
    page = write_report(tmp_path, results).read_text()
    assert all(label in page for label in labels)
    assert all(len(path.name) < 150 for path in tmp_path.rglob("*"))


def test_a_failing_run_leaves_the_others(tmp_path: Path) -> None:
    strategies = [
        {"strategy": "tests.runtime.test_compare:Broken", "label": "broken", "rounds": 1},
        {"strategy": "fedavg", "rounds": 1},
    ]
    with pytest.raises(RunsFailedError) as failed:
        compare(comparison(strategies=strategies, seeds=[0]), tmp_path, jobs=1)
    said = f"1 of 2 runs failed, 1 are kept in {tmp_path}: base | broken | seed 0: RuntimeError"
    assert str(failed.value) == f"{said}: out of order"
    assert [entry["strategy"] for entry in Results.load(tmp_path).runs] == ["fedavg"]


@pytest.mark.slow
def test_a_killed_process_ends_its_own_run_alone(tmp_path: Path) -> None:
    """Two run side by side, so that who ran beside the killed one has to run again."""
    strategies = [
        {"strategy": "tests.runtime.test_compare:Killed", "label": "killed", "rounds": 1},
        {"strategy": "fedavg", "rounds": 2},
        {"strategy": "local-only", "rounds": 1},
    ]
    with pytest.raises(RunsFailedError) as failed:
        compare(comparison(strategies=strategies, seeds=[0]), tmp_path, jobs=2)
    said = f"1 of 3 runs failed, 2 are kept in {tmp_path}: base | killed | seed 0: RunKilledError"
    assert str(failed.value).startswith(said)
    kept = [entry["strategy"] for entry in Results.load(tmp_path).runs]
    assert kept == ["fedavg", "local-only"]


def test_a_failing_node_ends_the_run_by_name_unless_faults_are_asked_for(
    make_run: Callable[..., RunConfig],
) -> None:
    strategy, reason = "tests.runtime.test_compare:OneFails", "ValueError: n1 is out of order"
    with pytest.raises(RunFailedError) as failed:
        run_locally(make_run(strategy, rounds=2))
    assert str(failed.value) == f"step 1: n1: {reason}"
    for asked in ({"faults": {"delay": 1e-9}}, {"threat": {"kind": "sign-flip"}}):
        record = run_locally(make_run(strategy, rounds=2, **asked))
        assert record["failures"] == [{"node": "n1", "step": s, "reason": reason} for s in (1, 2)]
        assert record["points"][-1]["updates"] == 4
        assert set(record["visits"]) == {"n0", "n2"}


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
    record = run_locally(make_run("tests.runtime.test_compare:Half", rounds=2))
    assert record["points"][-1]["updates"] == 2
    assert record["points"][-1]["bytes"]["payload"] == 2 * 2 * 4 * record["tunables"]


def test_classes_that_no_node_trains_on_are_said_once_and_kept(tmp_path: Path) -> None:
    data = {**TABLES["data"], "partition": "classes", "classes": 2}
    entries = [{**TABLES["strategies"][0], "label": label} for label in "ab"]
    tables = {**TABLES, "data": data, "seeds": [0], "strategies": entries}
    heard: list[tuple[str, object]] = []
    hear = nullcontext(lambda key, event: heard.append((key, event)))
    (kept, also) = compare(tables, tmp_path, watch=lambda comparison, done: hear).runs
    (note,) = kept["notes"]
    assert re.fullmatch(r"classes that no node trains on: .* \(\d+ of 40 test samples\)", note)
    assert also["notes"] == [note]
    assert [event for key, event in heard if key == "data"] == [note]
