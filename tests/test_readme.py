"""What the README shows works as written."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml

from mfd_flower.cli import app
from mfd_flower.config import RunConfig
from mfd_flower.runtime.runner import run_locally

ROOT = Path(__file__).parents[1]
SMALL = """
data = { name = "digits", nodes = 3, train_samples = 48, test_samples = 40 }
model.tune = "head"
strategies = [{ strategy = "fedavg", rounds = 1 }, { strategy = "mfd-walk", rounds = 2 }]
"""
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_with(words: str) -> str:
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if words in c)
    return str(code)


@pytest.mark.slow
def test_the_python_on_the_first_screen_runs_as_written(tmp_path: Path) -> None:
    """As a plain script: no main guard, though its runs are processes of their own."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "smoke.toml").write_text(SMALL)
    script = tmp_path / "script.py"
    script.write_text(python_with("mfd.compare"))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("mfd-walk 0.")
    kept = json.loads((tmp_path / "out" / "smoke" / "results.json").read_text())
    assert [run["strategy"] for run in kept["runs"]] == ["fedavg", "mfd-walk"]


def test_the_strategy_in_the_readme_runs_as_written(
    make_run: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = python_with("class HalfAvg")
    assert len(code.splitlines()) <= 30
    (tmp_path / "readme_half_avg.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    record = run_locally(make_run("readme_half_avg:HalfAvg", rounds=3))
    sys.modules.pop("readme_half_avg")
    points = [point["bytes"]["payload"] for point in record["points"]]
    rounds = [later - earlier for earlier, later in itertools.pairwise(points)]
    full = 2 * 3 * 4 * record["tunables"]
    assert rounds == [full * 3 // 4, full // 2, full // 2]
    assert record["points"][-1]["accuracy"] > record["points"][0]["accuracy"]


def test_every_mfd_command_in_the_readme_exists() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    shown = set(re.findall(r"^ {4}\.venv/bin/mfd ([\w-]+)", README, flags=re.MULTILINE))
    assert shown
    assert shown <= known


def test_every_linked_file_is_there() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_citation_and_changes_are_of_this_version_and_cite_both_texts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["title"], cited["version"]) == (project["name"], project["version"])
    assert cited["license"] == "Apache-2.0"
    assert [text["title"] for text in cited["references"]] == [
        "Foundation Model-Oriented 6G Network Distributed Learning",
        "Towards Integrated Fine-tuning and Inference when Generative AI meets Edge Intelligence",
    ]
    assert all({"type", "title", "authors"} <= text.keys() for text in cited["references"])
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0].rstrip(",") == project["version"]


def test_every_command_that_pages_show_exists() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        shown = re.findall(r"^ {4}mfd ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(shown) <= known, page.name
