"""What a stop, a kill, or an exception that cannot travel leaves of a comparison."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from mfd_flower.checks import ConfigError
from mfd_flower.report.page import write_report
from mfd_flower.results import FILE, Results
from mfd_flower.runtime import compare as module
from mfd_flower.runtime.compare import RunsFailedError, compare
from mfd_flower.runtime.run_files import RunFiles

HERE = "tests.runtime.test_stops"
FEDAVG = {"strategy": "fedavg", "rounds": 3}
TABLES: dict[str, Any] = {
    "checkpoint_every": 1,
    "data": {"name": "digits", "nodes": 3, "train_samples": 48, "test_samples": 40},
    "model": {"tune": "head"},
    "strategies": [FEDAVG],
}


class OddError(Exception):
    """Takes two words, and so does not survive pickling."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class Odd(FedAvg):
    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        raise OddError("out", "of order")


class Killed(FedAvg):
    """Is killed in its third round, when the other run is in its own, and so is that one."""

    def __init__(self, flag: str) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.flag = Path(flag)

    def configure_train(self, server_round: int, *args: Any, **keywords: Any) -> Any:
        if server_round == 3:
            while not self.flag.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().configure_train(server_round, *args, **keywords)


class Beside(Killed):
    def configure_train(self, server_round: int, *args: Any, **keywords: Any) -> Any:
        if server_round == 3 and not self.flag.exists():
            self.flag.touch()
            time.sleep(60)
        return FedAvg.configure_train(self, server_round, *args, **keywords)


def hearing(heard: list[tuple[str, Any]]) -> Any:
    hear = nullcontext(lambda key, event: heard.append((key, event)))
    return lambda comparison, done: hear


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_whose_exception_cannot_travel_says_what_it_was(tmp_path: Path, jobs: int) -> None:
    strategies = [{"strategy": f"{HERE}:Odd", "label": "odd"}, FEDAVG]
    with pytest.raises(RunsFailedError) as failed:
        compare({**TABLES, "strategies": strategies}, tmp_path, jobs=jobs)
    assert str(failed.value).endswith("base | odd | seed 0: OddError: out of order")
    assert [run["strategy"] for run in Results.load(tmp_path).runs] == ["fedavg"]


def test_who_ran_beside_a_killed_process_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    options = {"flag": str(tmp_path / "in its third round")}
    strategies = [
        {"strategy": f"{HERE}:{name}", "label": name, "rounds": 4, "options": options}
        for name in ("Killed", "Beside")
    ]
    heard: list[tuple[str, Any]] = []
    tables = {**TABLES, "strategies": strategies}
    with pytest.raises(RunsFailedError, match="1 of 2 runs failed"):
        compare(tables, tmp_path / "out", jobs=2, watch=hearing(heard))
    assert ("base | Beside | seed 0", "goes on behind step 2") in heard
    (kept,) = Results.load(tmp_path / "out").runs
    assert [point["step"] for point in kept["points"]] == [0, 1, 2, 3, 4]


def test_a_stop_while_a_run_is_saved_loses_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the run, which goes on behind its last step, nor the truth about what is kept."""
    with monkeypatch.context() as patch:

        def stopped(*args: Any) -> None:
            raise KeyboardInterrupt

        # A kill would end it here for good, without the save at the end.
        patch.setattr(Results, "save_texts", stopped)
        patch.setattr(module, "_summed_up", lambda folder, results: nullcontext())
        with pytest.raises(KeyboardInterrupt, match=f"^0 of 1 runs are kept in {tmp_path}$"):
            compare(TABLES, tmp_path, jobs=1)
    heard: list[tuple[str, Any]] = []
    compare(TABLES, tmp_path, jobs=1, resume=True, watch=hearing(heard))
    assert "goes on behind step 3" in [event for _, event in heard]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("seeds", "stops"), [([0], 1), ([0, 1], 1), ([0, 1], 2)])
def test_checkpoints_of_runs_that_are_saved_are_dropped_later_if_a_stop_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int], stops: int
) -> None:
    def stopped(files: RunFiles) -> None:
        raise KeyboardInterrupt

    tables = {**TABLES, "seeds": seeds}
    for _ in range(stops):
        with monkeypatch.context() as patch:
            patch.setattr(RunFiles, "drop_checkpoints", stopped)
            with pytest.raises(KeyboardInterrupt):
                compare(tables, tmp_path, jobs=1, resume=True)
        assert (tmp_path / "checkpoints").is_dir()
    compare(tables, tmp_path, jobs=1, resume=True)
    assert not (tmp_path / "checkpoints").exists()


def test_without_checkpoints_a_stopped_run_begins_again_and_the_others_stay(
    tmp_path: Path,
) -> None:
    tables = {**TABLES, "checkpoint_every": 0, "seeds": [0, 1]}

    def hear(key: str, event: Mapping[str, Any] | str) -> None:
        if key.endswith("seed 1") and isinstance(event, Mapping) and event["step"] == 2:
            raise KeyboardInterrupt

    watch: Any = lambda comparison, done: nullcontext(hear)  # noqa: E731
    with pytest.raises(KeyboardInterrupt, match="1 of 2 runs are kept"):
        compare(tables, tmp_path, jobs=1, watch=watch)
    (kept,) = Results.load(tmp_path).runs
    heard: list[tuple[str, Any]] = []
    again = compare(tables, tmp_path, jobs=1, resume=True, watch=hearing(heard)).runs
    assert again[0] == kept
    told = [event for key, event in heard if key != "device"]
    assert [e["step"] if isinstance(e, Mapping) else e for e in told] == [
        *("begins", 0, 1, 2, 3, "ends"),
    ]
    assert not (tmp_path / "checkpoints").exists()


def test_a_resumed_run_took_as_long_as_its_points_say(tmp_path: Path) -> None:
    """They count all its starts."""

    def hear(key: str, event: Mapping[str, Any] | str) -> None:
        if isinstance(event, Mapping) and event["step"] == 2:
            raise KeyboardInterrupt

    watch: Any = lambda comparison, done: nullcontext(hear)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        compare(TABLES, tmp_path, jobs=1, watch=watch)
    (run,) = compare(TABLES, tmp_path, jobs=1, resume=True).runs
    assert run["wall_seconds"] == run["points"][-1]["wall_seconds"]


def test_results_hold_each_run_at_once_and_are_summed_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    drop = RunFiles.drop_checkpoints

    def seeing(files: RunFiles) -> None:
        found = json.loads((tmp_path / FILE).read_text())
        seen.append((len(Results.load(tmp_path).runs), "summary" in found))
        drop(files)

    monkeypatch.setattr(RunFiles, "drop_checkpoints", seeing)
    results = compare({**TABLES, "seeds": [0, 1, 2]}, tmp_path, jobs=1)
    assert seen == [(1, False), (2, False), (3, False)]
    content = (tmp_path / FILE).read_bytes()
    results.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_overwrite_removes_what_an_earlier_comparison_left(tmp_path: Path) -> None:
    """So that a kill before the first run has ended leaves nothing that names what is gone."""
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    write_report(tmp_path, compare(TABLES, tmp_path, jobs=1))
    (tmp_path / "ledgers").mkdir()
    (tmp_path / "ledgers" / "0-walk.sqlite").touch()
    left: list[set[str]] = []

    @contextmanager
    def killed(comparison: Any, done: int) -> Iterator[Any]:
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        left.append({path.name for path in files})
        raise KeyboardInterrupt
        yield

    other = {**TABLES, "seeds": [1]}
    with pytest.raises(KeyboardInterrupt, match="0 of 1 runs"):
        compare(other, tmp_path, jobs=1, overwrite=True, watch=killed)
    assert left == [{".lock", "notes.txt"}]
    assert len(compare(other, tmp_path, jobs=1, resume=True).runs) == 1


def test_overwriting_and_going_on_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resume = True: accepted without --overwrite"):
        compare(TABLES, tmp_path, resume=True, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        compare(TABLES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_without_a_folder_nothing_is_said_to_be_kept() -> None:
    def hear(key: str, event: Mapping[str, Any] | str) -> None:
        raise KeyboardInterrupt

    watch: Any = lambda comparison, done: nullcontext(hear)  # noqa: E731
    with pytest.raises(KeyboardInterrupt, match="no run is kept: there is no folder for them"):
        compare(TABLES, jobs=1, watch=watch)


SLOW = """
import pathlib, time
pathlib.Path("importing").touch()
while not pathlib.Path("go on").exists():
    time.sleep(0.01)
"""
SCRIPT = """
import time
from mfd_flower.runtime import pool
pool.multiprocessing.get_context("forkserver").set_forkserver_preload(["slow_import"])
pool._start_forkserver()
try:
    time.sleep(60)
except KeyboardInterrupt:
    open("go on", "w").close()
    print("heard")
"""


@pytest.mark.slow
def test_ctrl_c_while_the_forkserver_imports_is_heard_by_the_command_alone(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole process group, and importing torch takes seconds."""
    (tmp_path / "slow_import.py").write_text(SLOW)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not (tmp_path / "importing").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert (said, errors) == ("heard\n", "")
