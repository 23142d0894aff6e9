"""Installed from a wheel, far from this repository, the package does what the README says."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[[strategies]]
strategy = "fedavg"
"""
TIMEOUT_S = 600


def readme_strategy() -> str:
    """Return the strategy that the README shows, `half_avg.py`."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (code,) = (block for block in blocks if "class HalfAvg" in block)
    return str(code)


def said(*words: object, folder: Path) -> str:
    """Run a command without this repository on Python's path, and return what it printed."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, install it into an environment of its own, and return its commands' folder.

    All other packages are those of the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("a wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    said(*pip, *build, ROOT, folder=folder)
    (wheel,) = folder.glob("*.whl")
    said(sys.executable, "-m", "venv", "--without-pip", folder / "env", folder=folder)
    commands = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    # A path in a .pth file is searched, but the .pth files there are not read: it brings all
    # packages except those that are installed as links, as this one may be.
    (own,) = (folder / "env").glob("**/site-packages")
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    said(*pip, "--python", commands / "python", *install, folder=folder)
    code = "import mfd_flower as m, strategies as s; print(m.__file__, s.__file__, sep='\\n')"
    files = said(commands / "python", "-c", code, folder=folder).splitlines()
    assert [Path(file).parents[1] for file in files] == [own, own]
    return commands


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Give a folder that holds settings, and nothing else."""
    (tmp_path / "settings.toml").write_text(CONFIG)
    return tmp_path


def run(commands: Path, folder: Path, strategy: str, rounds: int) -> dict[str, Any]:
    words = ("--config", "settings.toml", "--out", "out", "--rounds", rounds)
    said(commands / "mfd", "run", strategy, *words, folder=folder)
    assert (folder / "out" / "report.html").exists()
    (record,) = json.loads((folder / "out" / "results.json").read_text())["runs"]
    return dict(record)


@pytest.mark.slow
def test_the_strategy_of_the_readme_runs_in_an_empty_folder(commands: Path, empty: Path) -> None:
    (empty / "strategies").mkdir()
    (empty / "strategies" / "half_avg.py").write_text(readme_strategy())
    listed = json.loads(said(commands / "mfd", "strategies", "--json", folder=empty))
    assert listed["half-avg"]["from"] == "here"
    assert listed["mfd-walk"]["from"] == "built in"
    record = run(commands, empty, "half-avg", rounds=2)
    payload = [point["bytes"]["payload"] for point in record["points"]]
    first, second = (later - earlier for earlier, later in itertools.pairwise(payload))
    assert (first, second) == (3 * second // 2, 4 * 3 * record["tunables"])


@pytest.mark.slow
def test_a_strategy_of_ours_runs_from_the_wheel(commands: Path, empty: Path) -> None:
    record = run(commands, empty, "mfd-walk", rounds=1)
    assert record["points"][-1]["updates"] == 3
    assert len(record["visits"]) == 3
