"""A new strategy and a new trait, made in an empty folder, run and pass their tests as written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[model]
tune = "head"
[[strategies]]
strategy = "half-avg"
rounds = 1
[[strategies]]
strategy = "mfd-walk"
rounds = 1
options = { traits = { short-steps = { longest = 0.5 } } }
"""


@pytest.mark.slow
def test_both_are_run_and_tested_as_written(tmp_path: Path) -> None:
    def done(*words: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    (tmp_path / "c.toml").write_text(CONFIG)
    done("mfd_flower.cli", "new-strategy", "half-avg")
    done("mfd_flower.cli", "new-trait", "short-steps")
    done("mfd_flower.cli", "compare", "c.toml", "--out", "both")
    done("mfd_flower.cli", "run", "half-avg", "--config", "c.toml", "--out", "one")
    for folder, runs in (("both", 2), ("one", 1)):
        found = json.loads((tmp_path / folder / "results.json").read_text())["runs"]
        assert len(found) == runs
        assert all(run["points"][-1]["accuracy"] > run["points"][0]["accuracy"] for run in found)
    assert "9 passed" in done("pytest", "-q", "tests")
