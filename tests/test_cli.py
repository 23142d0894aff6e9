"""The command line: bad input is one line and status 2, and nothing is half-written."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image
from rich.console import Console

from mfd_flower import cli
from mfd_flower.comparison import load_comparison
from mfd_flower.report.progress import watch

ROOT = Path(__file__).parents[1]
GOOD = """
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[model]
tune = "head"
[[strategies]]
strategy = "fedavg"
rounds = 1
"""


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mfd", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


def test_whitepaper_plan(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--params", "7e9", "--bytes-per-param", "2"]
    words = ["plan", *size, "--nodes", "10", "--rounds", "100", "--json"]
    code, stdout, _ = call(capsys, *words)
    found = json.loads(stdout)
    assert code == 0
    assert found["fedavg_bytes"] == 28000000000000
    assert found["walk_bytes"] == 14000000000000


def test_strategies_are_read_from_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    _, stdout, _ = call(capsys, "strategies", "--json")
    found = json.loads(stdout)
    assert {"fedavg", "mfd-walk", "local-only", "centralised"} <= found.keys()
    assert found["mfd-walk"]["options"]["policy"]["default"] == "label-balance"
    assert found["fedavg"]["options"]["fraction_train"]["default"] == 1.0


def test_models_are_those_that_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    _, stdout, _ = call(capsys, "models", "--json")
    rows = {row["architecture"]: row for row in json.loads(stdout)["rows"]}
    assert rows["vit_tiny_patch16_224"]["ways"]["deep"]["whole"] < 1e-4
    assert (
        "is timm's SwinTransformer"
        in rows["swin_tiny_patch4_window7_224"]["ways"]["deep"]["refused"]
    )
    code, stdout, _ = call(capsys, "models")
    assert code == 0
    assert all(name in stdout for name in rows)


def test_data_shows_and_plots_who_holds_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "digits", "--nodes", 4, "--partition", "dirichlet", "--out", tmp_path]
    code, stdout, _ = call(capsys, *words, "--json")
    counts = json.loads(stdout)["counts"]
    assert code == 0
    assert sum(map(sum, counts)) == 1797 - 1000
    assert {p.name for p in tmp_path.iterdir()} == {"partition.png", "partition.svg"}


def test_data_shows_clients_and_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"${number}_" for number in range(300)]
    for split, count in (("train", 2), ("test", 1)):
        for name in names:
            for client in ("a[b]", "c"):
                folder = tmp_path / "photos" / split / name / client
                folder.mkdir(parents=True)
                for number in range(count):
                    Image.new("L", (3, 2), number).save(folder / f"{number}.png")
    broken = tmp_path / "photos" / "train" / names[0] / "c" / "1.png"
    broken.write_bytes(b"no picture")
    words = ["data", f"folder:{tmp_path / 'photos'}", "--nodes", 2, "--partition", "by-client"]
    words += ["--out", tmp_path / "out"]
    code, stdout, _ = call(capsys, *words, "--json")
    found = json.loads(stdout)
    assert code == 0
    assert found["clients"] == ["a[b]", "c"]
    assert found["classes"] == sorted(names)
    assert [sum(row) for row in found["counts"]] == [600, 599]
    assert found["test_counts"] == [2] * 300
    assert [bad["file"] for bad in found["unreadable"]] == [str(broken)]
    code, stdout, stderr = call(capsys, *words)
    assert "n0 a[b]" in stdout
    assert "test set" in stdout
    assert "note: 1 of 1800 pictures cannot be read: " in stderr
    code, _, stderr = call(capsys, *words, "--strict")
    assert code == 2
    assert stderr.startswith("mfd: data.strict = True: 1 of 1800 pictures cannot be read: ")


@pytest.mark.parametrize(
    "command",
    [
        *(
            "compare",
            "tune",
            "run",
            "reproduce",
            "plan",
            "infer",
            "predict",
            "export",
            "strategies",
        ),
        *("models", "traits", "data", "report", "doctor"),
        *("new-strategy", "new-trait", "log"),
    ],
)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"Example: mfd {command}" in stdout


def test_run_then_report_then_refuse_then_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "c.toml", tmp_path / "a folder"
    config.write_text(GOOD)
    words = ["run", "mfd-walk", "--config", config, "--out", out, "--rounds", 2, "--jobs", 1]
    code, stdout, _ = call(capsys, *words)
    assert code == 0
    assert "report.html" in stdout
    (out / "report.html").unlink()
    assert call(capsys, "report", out)[0] == 0
    assert (out / "report.html").exists()
    # The same again is done already; another config is refused until told to replace.
    assert call(capsys, *words)[0] == 0
    kept = json.loads((out / "results.json").read_text())
    config.write_text(GOOD.replace("nodes = 3", "nodes = 2"))
    code, _, stderr = call(capsys, *words)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "--overwrite" in stderr
    assert json.loads((out / "results.json").read_text()) == kept
    assert call(capsys, *words, "--overwrite")[0] == 0
    assert json.loads((out / "results.json").read_text())["runs"][0]["nodes"] == 2


def test_broken_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("{", '{"schema": 1, "runs": []}', '{"schema": 2}', "[]"):
        (tmp_path / "results.json").write_text(content)
        code, _, stderr = call(capsys, "report", tmp_path)
        assert (code, stderr.count("\n")) == (2, 1)


def test_a_failed_run_is_status_1_and_says_which_and_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "c.toml", tmp_path / "out"
    broken = '[[strategies]]\nstrategy = "tests.runtime.test_compare:Broken"\nlabel = "x"\n'
    config.write_text(f"margin = 0\n{GOOD}{broken}")
    code, _, stderr = call(capsys, "compare", config, "--out", out, "--jobs", 1)
    assert code == 1
    last = stderr.splitlines()[-1]
    assert f"1 of 2 runs failed, 1 are kept in {out}: base | x | seed 0: RuntimeError" in last
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 1


@pytest.mark.slow
def test_runs_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(GOOD.replace("rounds = 1", "rounds = 100000"))
    command = [sys.executable, "-m", "mfd_flower.cli", "compare", config, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    while "step 0" not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a run went on without the command that started it")


@pytest.mark.slow
def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(tmp_path: Path) -> None:
    config, out = tmp_path / "c.toml", tmp_path / "out"
    deaf = '[[strategies]]\nstrategy = "tests.runtime.test_compare:Deaf"\nrounds = 2\nlabel = "x"\n'
    config.write_text(f"margin = 0\n{GOOD}{deaf}")
    command = [sys.executable, "-m", "mfd_flower.cli", "compare", config, "--out", out]
    process = subprocess.Popen(
        [*map(str, command), "--jobs", "1"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background inherits an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while "| x | seed 0: step 1" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "1 of 2 runs are kept" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 1


def test_a_point_that_comes_behind_its_result_is_passed_over() -> None:
    """Runs report from other processes: the last point may arrive after the run's record."""
    comparison = load_comparison(ROOT / "experiments" / "smoke.toml")
    key = comparison.runs[0].key
    point = {"step": 1, "updates": 4, "accuracy": 0.5, "bytes": {"wire": 1000}}
    page = io.StringIO()
    with watch(Console(file=page), lambda line: None, comparison, done=0) as hear:
        for event in ("begins", point, "ends", {**point, "step": 2}, "begins"):
            hear(key, event)
    assert page.getvalue().count("begins") == 1
    assert "step 2" not in page.getvalue()


def test_a_folder_is_one_commands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second command is refused and changes nothing; a lock that a crash left holds nobody."""
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(GOOD)
    out.mkdir()
    (out / ".lock").touch()
    words = ["compare", config, "--out", out, "--jobs", 1]
    with FileLock(out / ".lock"):
        code, _, stderr = call(capsys, *words)
        assert (code, stderr.count("\n")) == (2, 1)
        assert "another command is at work there" in stderr
        assert [path.name for path in out.iterdir()] == [".lock"]
    assert call(capsys, *words)[0] == 0
    assert (out / "results.json").is_file()


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_alone_gets_its_tables(tmp_path: Path) -> None:
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(GOOD)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    for words in (["compare", str(config), "--out", str(out)], ["report", str(out), "--markdown"]):
        command = [sys.executable, "-m", "mfd_flower.cli", *words]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "0." in done.stdout.decode("ascii")


def test_quiet_prints_nothing_and_the_log_has_every_step_with_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, log = tmp_path / "c.toml", tmp_path / "log.txt"
    config.write_text(GOOD)
    words = ["compare", config, "--out", tmp_path / "out", "--quiet", "--log-file", log]
    assert call(capsys, *words) == (0, "", "")
    device, *lines = log.read_text().splitlines()
    assert device.endswith(" device: train.accelerator = auto took cpu")
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d base \| fedavg", x) for x in lines[:-1])
    assert [line.rpartition(": ")[2][:6] for line in lines[:-1]] == [
        "begins",
        "step 0",
        "step 1",
        "ends",
    ]
    assert lines[-1].endswith("done; results in " + str(tmp_path / "out"))
    code, out, err = call(capsys, *words[:-1], tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--log-file" in err


def test_a_kept_model_is_exported_and_what_is_there_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, home = tmp_path / "c.toml", tmp_path / "out", tmp_path / "home"
    config.write_text(GOOD)
    assert call(capsys, "compare", config, "--out", out, "--quiet")[0] == 0
    model = out / "models" / "0-fedavg-seed-0-best.safetensors"
    code, stdout, stderr = call(capsys, "export", model, "--out", home)
    assert (code, stderr) == (0, "")
    names = ["README.md", "classes.json", "model.safetensors"]
    sizes = {name: (home / name).stat().st_size for name in names}
    assert stdout.splitlines() == [f"{home / n} ({size:,} bytes)" for n, size in sizes.items()]
    card = (home / "README.md").read_text()
    (point,) = json.loads((out / "results.json").read_text())["runs"][0]["points"][-1:]
    assert f"| bytes sent until then, wire | {point['bytes']['wire']:,} |" in card
    assert f"| accuracy on the test set | {point['accuracy']:.4g} |" in card
    code, stdout, stderr = call(capsys, "export", model, "--out", home)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("mfd: --out = ")
    assert {path.name for path in home.iterdir()} == {*names}


def test_tune_then_compare_with_what_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "c.toml", tmp_path / "tuned"
    config.write_text(GOOD + "tune.train.lr = [0.0001, 0.1]\ntune.train.local_epochs = [5]\n")
    words = ["tune", config, "--budget", 4, "--seeds", "7,8", "--out", out, "--jobs", 1]
    code, stdout, stderr = call(capsys, *words)
    assert code == 0
    assert "rung 0: 3 settings on seed 7" in stderr
    assert "rung 1: 2 settings on seed 8" in stderr
    assert "train.lr 0.1 " in stdout
    assert "train.local_epochs 5 " in stdout
    assert "fedavg (base): 3 of 4 settings tried: there are no others" in stderr
    # All of it is done already.
    code, stdout, _ = call(capsys, *words, "--json", "--quiet")
    assert (code, json.loads(stdout)) == (0, json.loads((out / "tuning.json").read_text()))
    tuned, compared = out / "tuned.toml", tmp_path / "compared"
    assert call(capsys, "compare", tuned, "--out", compared, "--quiet", "--jobs", 1)[0] == 0
    (run,) = json.loads((compared / "results.json").read_text())["runs"]
    chosen = (run["settings"]["train.lr"], run["settings"]["train.local_epochs"], run["seed"])
    assert chosen == (0.1, 5, 0)
