"""The ServerApp: whatever `out` is named, one run touches no file of another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from mfd_flower import server_app
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.files import check_writable, unique_slug
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import local_grid

MakeRun = Callable[..., RunConfig]


def serve(run: RunConfig, out: Path, **settings: Any) -> None:
    config = {**run.flat(), "out": str(out), **settings}
    with local_grid(run, 1, out.parent / "states") as grid:
        context = Context(0, 0, {}, RecordDict(), config)
        server_app.main(grid, context)


@pytest.mark.parametrize("name", ["é.json", "...json", ".json", "a b.json", "a" * 200 + ".json"])
def test_whatever_a_run_is_named_it_leaves_others_alone(
    make_run: MakeRun, tmp_path: Path, name: str
) -> None:
    others = [tmp_path / "checkpoints" / each / "run.state" for each in ("a-b", "other")]
    for path in others:
        path.parent.mkdir(parents=True)
        path.touch()
    serve(make_run("fedavg", model={"tune": "head"}), tmp_path / name, checkpoint_every=1)
    assert (tmp_path / name).is_file()
    assert all(path.exists() for path in others)
    assert not any((tmp_path / "states").iterdir())


def test_names_of_files_are_those_of_one_run() -> None:
    names = ["a b", "a-b", "a_b", "é", "è", "..", ".", "", "a" * 200, "a" * 201, "run", "run.csv"]
    made = [unique_slug(name) for name in names]
    assert len(set(made)) == len(names)
    assert (unique_slug("a-b"), unique_slug("run")) == ("a-b", "run")
    assert all(RunFiles(Path(), name).name and len(name) <= 120 for name in made)
    for bad in ("", "..", "a/b", "-a"):
        with pytest.raises(ConfigError, match="name = "):
            RunFiles(Path(), bad)


def test_long_names_that_differ_in_their_last_letter_have_files_of_their_own(
    make_run: MakeRun, tmp_path: Path
) -> None:
    outs = [tmp_path / f"{'a' * 199}{end}.json" for end in "bc"]
    for rounds, out in enumerate(outs, 1):
        serve(make_run("fedavg", rounds, model={"tune": "head"}), out, checkpoint_every=1)
    models = [TrainedModel.load(tmp_path / json.loads(out.read_text())["model"]) for out in outs]
    assert [model.about.made["metrics"]["step"] for model in models] == [1, 2]


def test_an_empty_folder_of_checkpoints_is_removed(make_run: MakeRun, tmp_path: Path) -> None:
    serve(make_run("fedavg", model={"tune": "head"}), tmp_path / "run.json", checkpoint_every=1)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "models", "states"}


@pytest.mark.parametrize("out", ["folder", "file/run.json"])
def test_where_nothing_can_be_written_nothing_runs(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr(server_app, "run_on", None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="out = "):
        serve(make_run("fedavg"), tmp_path / out)


def test_a_kill_before_the_results_are_written_leaves_the_checkpoint(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = make_run("fedavg", 2, model={"tune": "head"}), tmp_path / "run.json"

    def killed(path: Path, record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(server_app, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            serve(run, out, checkpoint_every=1)
    said: list[str] = []
    monkeypatch.setattr(server_app.log, "info", lambda line, *values: said.append(line % values))
    serve(run, out, checkpoint_every=1, resume=True)
    assert said == ["goes on behind step 2"]
    assert out.is_file()
    assert not (tmp_path / "checkpoints").exists()


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    """A link whose target is not there yet stays one."""
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "later.csv")
    check_writable("--csv", link)
    assert link.is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["link.csv"]
