"""What a new strategy or trait begins with is found, lint-clean, works, and overwrites nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.serverapp.strategy import Strategy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.finding import find
from mfd_flower.runtime.runner import run_locally
from mfd_flower.starter import write_start
from mfd_flower.walk.trait import Trait
from tests.harness import trial, whole_and_stopped
from tests.test_bad_inputs import left
from tests.test_cli import call

ROOT = Path(__file__).parents[2]
BASES = {"strategy": Strategy, "trait": Trait}
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,5}){0,2}", fullmatch=True) | st.text()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@settings(max_examples=60)
@given(kind=st.sampled_from([*BASES]), name=NAMES)
@example("trait", "torch")
@example("strategy", "none")
@example("strategy", "class")
@example("strategy", "../out")
@example("strategy", "a\n")
@example("trait", "a" * 61)
def test_a_name_is_refused_in_one_line_or_finds_the_file_again(kind: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            files = write_start(kind, name)
        except ConfigError as refused:
            lines, made = str(refused).splitlines(), [*Path(folder).iterdir()]
            assert (len(lines), made) == (1, [])
            return
        found = find(kind, name, BASES[kind])
        assert (found.origin, found.file) == ("here", Path.cwd() / files[0])
        assert all(file.is_file() for file in files)
        assert "{{" not in files[0].read_text() + files[1].read_text()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("strategy", "node"), ("strategy", "record-dict"), ("trait", "visit"), ("trait", "trait")],
)
def test_a_class_that_would_hide_an_import_is_refused(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="would hide what the file imports"):
        write_start(kind, name)
    assert not any(Path.cwd().iterdir())


def test_the_strategy_learns_as_fedavg_does_and_goes_on_after_a_stop(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    write_start("strategy", "half-avg")
    ours, theirs = trial(make_run("half-avg")), trial(make_run("fedavg"))
    for name, tensor in theirs.tensors.items():
        assert ours.tensors[name].allclose(tensor, atol=1e-6)
    whole, again, _ = whole_and_stopped(make_run("half-avg", rounds=2), tmp_path / "kept", 1)
    assert whole == again


def test_the_trait_bounds_what_a_walk_learns(make_run: Callable[..., RunConfig]) -> None:
    write_start("trait", "short-steps")

    def losses(**traits: object) -> list[float]:
        run = make_run("mfd-walk", options={"traits": traits})
        return [point["loss"] for point in run_locally(run)["points"]]

    plain = losses()
    assert losses(**{"short-steps": {"longest": 1e9}}) == plain
    assert set(losses(**{"short-steps": {"longest": 0.0}})) == {plain[0]}
    assert plain[-1] < losses(**{"short-steps": {"longest": 0.1}})[-1] < plain[0]


def test_both_are_as_this_repository_wants_its_files() -> None:
    for kind in BASES:
        write_start(kind, f"own-{kind}-of-mine")
    words = ("--config", ROOT / "pyproject.toml", "--no-cache", ".")
    own = ("--config", 'lint.isort.known-first-party=["mfd_flower"]')
    ignored = ("--config", 'lint.per-file-ignores = {"tests/**" = ["D"]}')
    for command in (("check", *own, *ignored), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("taken", ["strategies/half_avg.py", "tests/test_half_avg.py"])
@pytest.mark.parametrize("dangling", [False, True])
def test_what_is_there_stays_and_nothing_is_written_beside_it(taken: str, dangling: bool) -> None:
    Path(taken).parent.mkdir()
    os.symlink("nowhere", taken) if dangling else Path(taken).write_text("mine = 1")
    before = left(Path.cwd())
    with pytest.raises(ConfigError, match="is there already"):
        write_start("strategy", "half-avg")
    assert left(Path.cwd()) == before


def test_a_folder_that_cannot_be_made_leaves_nothing() -> None:
    Path("tests").write_text("no folder")
    with pytest.raises(ConfigError, match=r"tests/test_half_avg.py cannot be written"):
        write_start("strategy", "half-avg")
    assert [path.name for path in Path.cwd().iterdir()] == ["tests"]


def test_the_commands_name_the_files_and_what_to_do_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = call(capsys, "new-strategy", "half-avg")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["strategies/half_avg.py", "tests/test_half_avg.py"]
    assert "mfd run half-avg " in out
    code, out, err = call(capsys, "new-trait", "short-steps")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["traits/short_steps.py", "tests/test_short_steps.py"]
    code, out, err = call(capsys, "new-trait", "half-avg")  # Its test would be the strategy's.
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not Path("traits", "half_avg.py").exists()
