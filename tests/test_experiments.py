"""Experiments of a repository run by name, whether they are comparisons or scripts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mfd_flower.cli.experiments import comparisons, scripts
from tests.test_cli import call

Capture = pytest.CaptureFixture[str]

SCRIPT = """
import json
import sys
from pathlib import Path

def main(arguments: list[str] | None = None) -> None:
    assert arguments[0] == "--json"
    print("table")
    Path(arguments[1]).parent.mkdir(parents=True)
    Path(arguments[1]).write_text(json.dumps({"found": 1}))
"""
TINY = """
[data]
name = "digits"
nodes = 2
train_samples = 20
test_samples = 20
[model]
tune = "head"
[[strategies]]
strategy = "fedavg"
rounds = 1
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "of_scripts.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("import this_is_nowhere")
    (folder / "tiny.toml").write_text(TINY)
    (folder / "tiny-full.toml").write_text(TINY.replace("20", "30"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [n for n in sys.modules if n.partition(".")[0] == "experiments"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_only_what_can_be_run_is_named(repository: Path, capsys: Capture) -> None:
    assert scripts() == ["of-scripts"]
    assert sorted(comparisons()) == ["tiny", "tiny-full"]
    for words in (["helper"], ["of-scripts", "--setting", "full"], ["../experiments/tiny"]):
        code, _, stderr = call(capsys, "reproduce", *words)
        assert code == 2
        assert "accepted here: of-scripts, tiny, tiny-full" in stderr


def test_a_script_writes_its_summary(repository: Path, capsys: Capture) -> None:
    assert call(capsys, "reproduce", "of-scripts")[:2] == (0, "table\n")
    assert json.loads((repository / "out/of-scripts/summary.json").read_text()) == {"found": 1}


def test_with_json_its_numbers_are_printed_alone(repository: Path, capsys: Capture) -> None:
    code, stdout, _ = call(capsys, "reproduce", "of-scripts", "--json")
    assert (code, json.loads(stdout)) == (0, {"found": 1})


@pytest.mark.parametrize(("setting", "samples"), [("small", 20), ("full", 30)])
def test_a_comparison_has_a_larger_setting(
    repository: Path, setting: str, samples: int, capsys: Capture
) -> None:
    assert call(capsys, "reproduce", "tiny", "--setting", setting, "--quiet")[0] == 0
    folder = repository / "out" / ("tiny-full" if setting == "full" else "tiny")
    (run,) = json.loads((folder / "results.json").read_text())["runs"]
    assert run["settings"]["data.train_samples"] == samples
