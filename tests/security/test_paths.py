"""Whatever labels, names and messages say, files stay in the folder that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.files import slug, unique_slug
from mfd_flower.node_state import KEEP_STATE, RECALL_STATE, keep_state, recall_state
from mfd_flower.report.page import write_report
from mfd_flower.results import Results
from mfd_flower.runtime.run_files import RunFiles
from tests.test_bad_inputs import left
from tests.test_cli import call
from tests.test_results import damaged

CONFIG = r"""
name = "../../name"
checkpoint_every = 1
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[model]
tune = "head"
[[scenarios]]
name = "../../scenario"
[[strategies]]
strategy = "local-only"
label = "../../../label"
rounds = 1
[[strategies]]
strategy = "mfd-walk"
label = ".."
rounds = 1
options = { traits = { ledger = {} } }
"""
IDENTITY = "0" * 16


def test_a_comparison_writes_below_its_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a" / "b" / "c"
    here.mkdir(parents=True)
    (here / "c.toml").write_text(CONFIG)
    monkeypatch.chdir(here)
    assert call(capsys, "compare", "c.toml", "--out", "out", "--quiet")[0] == 0
    assert {path.name for path in here.iterdir()} == {"c.toml", "out"}
    assert [path.name for path in tmp_path.rglob("*") if not path.is_relative_to(here)] == [
        "a",
        "b",
    ]
    out = (here / "out").resolve()
    runs = json.loads((out / "results.json").read_text())["runs"]
    named = [path for run in runs for path in _files(run)]
    # The last and the best model of three nodes, and of the walk; its ledger.
    assert len(named) == 2 * 3 + 2 + 1
    for path in named:
        assert (out / path).resolve().is_relative_to(out)
        assert (out / path).is_file()


def _files(run: dict[str, Any]) -> list[str]:
    """Return the paths that a run's record names."""
    kept = (run, run["best"])
    found = [path for each in kept for path in (each["model"], *(each["models"] or {}).values())]
    return [path for path in (*found, run.get("ledger")) if path]


@given(st.text())
@example("../../etc/passwd")
@example("..")
@example("a\0b")
@example("/" * 300)
def test_words_become_one_part_of_a_path(words: str) -> None:
    parts = [unique_slug(words)] + ([slug(words)] if slug(words) else [])
    for part in parts:
        assert Path("x", part).parent == Path("x")
        assert part not in (".", "..")
        assert not part.startswith(".")
        assert len(part.encode()) <= 120


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", "a\\..\\b", "-x", "a\0b"])
def test_a_runs_files_have_no_name_that_leads_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name = "):
        RunFiles(tmp_path, name)


@pytest.mark.parametrize("kind", [KEEP_STATE, RECALL_STATE])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("run", bad) for bad in ("", "..", "../../x", "a/b", "/etc", ".x", "a\n")),
        *(("identity", bad) for bad in ("", "..", "../../../../x", "0" * 15 + "/", "0" * 17)),
        *(("step", bad) for bad in ("../../x", "1/../../x", 1.5)),
    ],
)
def test_a_message_names_no_other_folder_for_a_nodes_state(
    kind: str, field: str, value: object, tmp_path: Path
) -> None:
    states = tmp_path / "a" / "states"
    kept = states / "run" / IDENTITY / "n0" / "1.state"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"kept")
    before = left(tmp_path)
    told = {"run": "run", "identity": IDENTITY, "step": 2, "before": 1, field: value}
    content = RecordDict({"state": ConfigRecord(told)})  # type: ignore[arg-type]
    node = {"partition-id": 0, "state-dir": str(states)}
    handler = keep_state if kind == KEEP_STATE else recall_state
    with pytest.raises((ConfigError, TypeError)):
        handler(Message(content, 1, kind), Context(1, 1, node, RecordDict(), {}))
    assert left(tmp_path) == before


@pytest.mark.parametrize("key", ["scenario", "strategy"])
def test_a_report_on_results_from_elsewhere_stays_in_their_folder(key: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(damaged("runs", 0, key, value="../../../x"))
    assert write_report(folder, Results.load(folder)).parent == folder
    elsewhere = [path for path in tmp_path.rglob("*") if not path.is_relative_to(folder)]
    assert elsewhere == [tmp_path / "a"]
    assert all(path.parent == folder for path in folder.rglob("*"))
