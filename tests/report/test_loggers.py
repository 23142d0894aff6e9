"""Loggers get every number of every point, each run as a run, and no path from a label."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mfd_flower import log_results
from mfd_flower.checks import ConfigError
from mfd_flower.report import loggers
from mfd_flower.results import Results
from tests.accounting.test_targets import curve, run
from tests.test_bad_inputs import left
from tests.test_cli import call

LABELS = ("fedavg", "../../a walk/[int8]", "..")


def results() -> Results:
    """Three runs; a loss that diverged, and one that is not known, are among their points."""
    points = curve([0.1, 0.8, 0.9], gap=3)
    for point, loss in zip(points, (2.5, None, math.nan), strict=True):
        point["loss"] = loss
    runs = [run(label, points) for label in LABELS]
    for each in runs:
        each["settings"]["train.lr"] = 0.01
    machine = {"cores": 1, "processor": "x", "python": "3", "packages": {}}
    return Results({"name": "../out", "margin": 0.0, "metric": "accuracy"}, machine, runs)


def saved(folder: Path) -> Path:
    """Write these results into a folder of their own; nothing may be left beside it."""
    inner = folder / "inner" / "results"
    inner.mkdir(parents=True)
    results().save(inner)
    return inner


def numbers(point: dict[str, Any]) -> dict[str, float]:
    """Return what a logger is to have of a point."""
    flat = {key: value for key, value in point.items() if key != "bytes"}
    flat |= {f"bytes/{kind}": size for kind, size in point["bytes"].items()}
    return {key: value for key, value in flat.items() if value is not None and value == value}


def test_tensorboard_has_the_curves_of_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path)
    code, out, err = call(capsys, "log", folder, "tensorboard")
    assert (code, out, err) == (0, f"tensorboard --logdir {folder}/tensorboard\n", "")
    kept = sorted((folder / "tensorboard").iterdir())
    assert len(kept) == len(LABELS)
    for place, (run_folder, measured) in enumerate(zip(kept, results().runs, strict=True)):
        assert run_folder.name.startswith(f"{place}-")
        events = EventAccumulator(str(run_folder)).Reload()
        found: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["scalars"]:
            for scalar in events.Scalars(tag):
                found.setdefault(scalar.step, {})[tag] = scalar.value
        wanted = {point["updates"]: numbers(point) for point in measured["points"]}
        assert found == {step: pytest.approx(values) for step, values in wanted.items()}
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}
    assert {path.name for path in folder.parent.iterdir()} == {"results"}


def test_any_logger_of_lightnings_will_do(tmp_path: Path) -> None:
    names: list[str] = []

    def make(name: str) -> CSVLogger:
        names.append(name)
        return CSVLogger(tmp_path, name=name, version=0)

    assert log_results(results(), make) is None
    assert len({*names}) == len(LABELS)
    assert not any("/" in name or name.startswith(".") for name in names)
    for name, measured in zip(names, results().runs, strict=True):
        with (tmp_path / name / "version_0" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [float(row["accuracy"]) for row in rows] == [0.1, 0.8, 0.9]
        assert [float(row["bytes/wire"]) for row in rows] == [0, 11, 22]
        assert [row["loss"] for row in rows] == ["2.5", "", ""]
        hyperparameters = (tmp_path / name / "version_0" / "hparams.yaml").read_text()
        assert "train.lr: 0.01" in hyperparameters
        assert f"strategy: {measured['strategy']}" in hyperparameters


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_one_line_with_the_command_that_brings_it(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = saved(tmp_path)
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    said = f"mfd: LOGGER = '{name}': not installed; pip install 'mfd-flower[loggers]'\n"
    assert call(capsys, "log", folder, name) == (2, "", said)
    assert [path.name for path in folder.iterdir()] == ["results.json"]


def test_what_is_there_already_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "mine").write_text("mine")
    before = left(tmp_path)
    code, out, err = call(capsys, "log", folder, "tensorboard")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "tensorboard: File exists" in err
    assert left(tmp_path) == before


def test_a_logger_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullError(Exception):
        pass

    def broken(*values: object) -> Callable[[str], Any]:
        def make(name: str) -> CSVLogger:
            if name.startswith("1-"):
                raise FullError
            return CSVLogger(tmp_path / "curves" / "tensorboard", name=name)

        return make

    monkeypatch.setattr(loggers, "LOGGERS", {"tensorboard": broken})
    with pytest.raises(FullError):
        log_results(results(), "tensorboard", tmp_path / "curves")
    assert not any((tmp_path / "curves").iterdir())


def test_another_name_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'csv': accepted: tensorboard, mlflow, wandb"):
        log_results(results(), "csv", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_mlflow_and_wandb_get_the_curves_without_a_network(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    # What cannot be reached, so that whoever asks outside fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mfd_flower.cli", "log", folder, name],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / name) in done.stdout
    assert {path.name for path in folder.iterdir()} == {"results.json", name}
    assert {path.name for path in folder.parent.iterdir()} == {"results"}
    if name == "wandb":
        kept = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        contents = b"".join(path.read_bytes() for path in kept)
        assert len(kept) == len(LABELS)
        assert all(json.dumps(label).encode() in contents for label in LABELS)
        assert b"bytes/wire" in contents
        return
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow/mlflow.db")
    (comparison,) = client.search_experiments(filter_string="name != 'Default'")
    found = {
        each.data.params["strategy"]: each
        for each in client.search_runs([comparison.experiment_id])
    }
    assert {*found} == {*LABELS}
    for each in found.values():
        history = client.get_metric_history(each.info.run_id, "accuracy")
        assert [(point.step, point.value) for point in history] == [(0, 0.1), (3, 0.8), (6, 0.9)]
        assert each.info.status == "FINISHED"
