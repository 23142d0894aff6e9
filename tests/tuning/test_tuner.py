"""A tuning finds what is known to be best, and is the same after a stop."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import PlannedRun, load_comparison
from mfd_flower.tuning import tuner
from mfd_flower.tuning.tuner import tune
from tests.tuning.curves import BEST_EPOCHS, BEST_LR, Curves, distance, lower, reached_at, slower

LRS, EPOCHS = [0.001, 0.01, 0.03, 0.1, 1.0], [1, 5, 20]
TABLES: dict[str, Any] = {
    "name": "toy",
    "seeds": [0, 1],
    "data": {"name": "digits", "nodes": 3, "train_samples": 48, "test_samples": 40},
    "model": {"tune": "head"},
    "tune": {"train": {"lr": LRS, "local_epochs": EPOCHS}},
    "strategies": [
        {"strategy": "fedavg", "rounds": 1, "train": {"lr": 0.1}},
        {"strategy": "mfd-walk", "rounds": 1, "options": {"policy": "random"}},
    ],
}
SEEDS = [100, 101, 102]


class Fragile(FedAvg):
    """Raises if it is told to."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
        self.broken = broken

    def configure_train(self, *args: Any, **keywords: Any) -> Any:
        if self.broken:
            raise RuntimeError("out of order")
        return super().configure_train(*args, **keywords)


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Curves]:
    """Return what puts closed forms in the place of runs."""

    def put(made: Callable[[PlannedRun], dict[str, Any] | str]) -> Curves:
        stand_in = Curves(made)
        monkeypatch.setattr(tuner, "compare", stand_in)
        return stand_in

    return put


@pytest.mark.parametrize("made", [slower, lower])
@pytest.mark.parametrize("objective", ["kept-bytes", "accuracy"])
def test_the_whole_grid_finds_the_best_there_is(
    tmp_path: Path, curves: Callable[..., Curves], made: Any, objective: Any
) -> None:
    curves(made)
    found = tune(TABLES, tmp_path, budget=15, seeds=SEEDS, objective=objective)
    tuned = load_comparison(tmp_path / "tuned.toml")
    assert tuned.name == "toy"
    assert len(tuned.runs) == 4
    for run in tuned.runs:
        assert (run.config.train.lr, run.config.train.local_epochs) == (BEST_LR, BEST_EPOCHS)
        assert run.config.seed in (0, 1)
    assert {each["tried"] for each in found["searches"]} == {15}
    assert found == json.loads((tmp_path / "tuning.json").read_text())


def test_all_else_of_the_comparison_stays(tmp_path: Path, curves: Callable[..., Curves]) -> None:
    curves(slower)
    tables = {**TABLES, "margin": 0.05, "checkpoint_every": 3}
    tune(tables, tmp_path, budget=15, seeds=SEEDS)
    before, after = (load_comparison(each) for each in (tables, tmp_path / "tuned.toml"))
    changed = {"train.lr": BEST_LR, "train.local_epochs": BEST_EPOCHS}
    described = before.describe()
    for run in described["runs"]:
        run["settings"] |= changed
    assert described == after.describe()
    assert after.checkpoint_every == 3


def test_every_entry_tries_as_many_settings_as_every_other(
    tmp_path: Path, curves: Callable[..., Curves]
) -> None:
    asked = curves(slower)
    found = tune(TABLES, tmp_path, budget=9, seeds=SEEDS)
    assert [len(rung) for rung in asked.asked] == [2 * 9, 2 * 3, 2 * 2]
    assert [{run.config.seed for run in rung} for rung in asked.asked] == [{s} for s in SEEDS]
    settings = {json.dumps([s["strategy"], s["values"]]) for s in found["settings"]}
    assert len(settings) == len(found["settings"]) == 18
    for setting in found["settings"]:
        (values,) = [
            run.config.train
            for run in asked.asked[0]
            if run.label == f"{setting['strategy']} #{setting['number']}"
        ]
        shown = {"train.lr": values.lr, "train.local_epochs": values.local_epochs}
        assert setting["values"] == shown
        assert [rung["seeds"] for rung in setting["rungs"]] == [
            SEEDS[: n + 1] for n in range(len(setting["rungs"]))
        ]


def test_who_goes_on_was_the_best_of_its_entry(
    tmp_path: Path, curves: Callable[..., Curves]
) -> None:
    asked = curves(slower)
    tune(TABLES, tmp_path, budget=9, seeds=SEEDS)
    for strategy in ("fedavg", "mfd-walk"):
        here, there = (
            {distance(run) for run in rung if run.config.strategy.name == strategy}
            for rung in asked.asked[:2]
        )
        assert sorted(here)[: len(there)] == sorted(there)


def failing(planned: PlannedRun) -> dict[str, Any] | str:
    """The best settings fail, on the second seed; those beside them diverge at once."""
    away = distance(planned)
    if away == 0 and planned.config.seed == SEEDS[1]:
        return "out of memory"
    record = slower(planned)
    return record | {"diverged": "the loss is not finite" if 0 < away < 1.3 else ""}


def test_what_fails_or_diverges_is_listed_and_never_chosen(
    tmp_path: Path, curves: Callable[..., Curves]
) -> None:
    curves(failing)
    found = tune(TABLES, tmp_path, budget=15, seeds=SEEDS)
    settings = {
        (s["strategy"], s["values"]["train.lr"], s["values"]["train.local_epochs"]): s
        for s in found["settings"]
    }
    for strategy in ("fedavg", "mfd-walk"):
        best = settings[strategy, BEST_LR, BEST_EPOCHS]
        wild = settings[strategy, 0.01, BEST_EPOCHS]
        assert best["why"] == "failed on seed 101: RuntimeError: out of memory"
        assert wild["why"] == "diverged on seed 100: the loss is not finite"
        assert [len(each["rungs"]) for each in (best, wild)] == [1, 0]
        assert not best["chosen"]
        (taken,) = [s for key, s in settings.items() if key[0] == strategy and s["chosen"]]
        assert taken["why"] == "rank 1 of 2 in rung 2"
    for run in load_comparison(tmp_path / "tuned.toml").runs:
        assert failing(run) == slower(run) | {"diverged": ""}
        assert distance(run) > 0


def test_an_entry_of_which_all_fails_stays_as_it_is(
    tmp_path: Path, curves: Callable[..., Curves]
) -> None:
    curves(lambda run: slower(run) if run.config.strategy.name == "fedavg" else "never")
    found = tune(TABLES, tmp_path, budget=3, seeds=SEEDS)
    assert [each["chosen"] is None for each in found["searches"]] == [False, True]
    (walk, _) = (r for r in load_comparison(tmp_path / "tuned.toml").runs if r.label == "mfd-walk")
    assert walk.config == load_comparison(TABLES).runs[2].config


def test_scenarios_choose_for_themselves(tmp_path: Path, curves: Callable[..., Curves]) -> None:
    """In scenario b the settings of FedAvg that are best elsewhere are the worst."""

    def made(planned: PlannedRun) -> dict[str, Any]:
        backwards = (planned.scenario, planned.label[:6]) == ("b", "fedavg")
        return reached_at(9 - distance(planned)) if backwards else slower(planned)

    curves(made)
    tables = {**TABLES, "scenarios": [{"name": name} for name in "abc"]}
    tune(tables, tmp_path, budget=15, seeds=SEEDS[:1])
    text = (tmp_path / "tuned.toml").read_text()
    entries = [(e["strategy"], e.get("only")) for e in tomllib.loads(text)["strategies"]]
    assert entries == [("fedavg", ["a", "c"]), ("fedavg", ["b"]), ("mfd-walk", None)]
    runs = load_comparison(tmp_path / "tuned.toml").runs
    assert len(runs) == len(load_comparison(tables).runs)
    for run in runs:
        backwards = (run.scenario, run.label) == ("b", "fedavg")
        assert run.config.train.lr == (1.0 if backwards else BEST_LR)
        assert run.config.train.local_epochs == (1 if backwards else BEST_EPOCHS)


def test_scenarios_can_be_tuned_one_at_a_time(
    tmp_path: Path, curves: Callable[..., Curves]
) -> None:
    curves(slower)
    fedavg, walk = TABLES["strategies"]
    entries = [fedavg, {**walk, "only": ["a", "b"]}, {**walk, "label": "elsewhere", "only": ["a"]}]
    scenarios = [{"name": "a"}, {"name": "b", "train": {"batch_size": 8}}]
    tables = {**TABLES, "strategies": entries, "scenarios": scenarios}
    whole = tune(tables, tmp_path / "whole", budget=4, seeds=SEEDS)
    alone = tune(tables, tmp_path / "alone", budget=4, seeds=SEEDS, scenarios=["b"])
    assert "--scenario=b --objective" in alone["command"]

    def tried(made: dict[str, Any]) -> list[Any]:
        here = [each for each in made["settings"] if each["scenario"] == "b"]
        return [{k: v for k, v in each.items() if k != "entry"} for each in here]

    assert {each["scenario"] for each in alone["settings"]} == {"b"}
    assert tried(alone) == tried(whole)
    assert [run.scenario for run in load_comparison(tmp_path / "alone" / "tuned.toml").runs] == [
        *("b" for _ in range(2 * len(TABLES["seeds"])))
    ]
    with pytest.raises(ConfigError, match=r"--scenario = 'c': accepted: a, b"):
        tune(tables, tmp_path / "none", budget=4, seeds=SEEDS, scenarios=["b", "c"])
    assert not (tmp_path / "none").exists()


def test_the_file_says_where_it_comes_from(tmp_path: Path, curves: Callable[..., Curves]) -> None:
    curves(slower)
    config = tmp_path / "own file.toml"
    config.write_text(
        '[[strategies]]\nstrategy = "fedavg"\nlabel = "x"\n[strategies.tune]\nrounds = [1, 2]\n'
    )
    tune(config, tmp_path / "out", budget=9, seeds=[5])
    head, empty, *_ = (tmp_path / "out" / "tuned.toml").read_text().split("\n\n")[0].split("\n")
    how = "--budget 9 --seeds 5 --objective kept-bytes"
    assert head == f"# mfd tune '{config}' {how} --out {tmp_path / 'out'}"
    assert empty.startswith("# Chosen on other seeds")
    assert load_comparison(tmp_path / "out" / "tuned.toml").name == "own file"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seeds": [100, 1]}, "--seeds = [100, 1]: 1 is one of the comparison's table; accepted"),
        ({"seeds": []}, "--seeds = []: one or more whole numbers, each once"),
        ({"seeds": [5, 5]}, "--seeds = [5, 5]: one or more whole numbers, each once"),
        ({"seeds": [-1]}, "--seeds = -1: must be at least 0"),
        ({"budget": 0}, "--budget = 0: must be at least 1"),
        ({"objective": "speed"}, "--objective = 'speed': accepted: kept-bytes, accuracy"),
        ({"resume": True, "overwrite": True}, "--resume = True: accepted without --overwrite"),
    ],
)
def test_bad_ways_of_tuning_are_one_line_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    how: dict[str, Any] = {"budget": 3, "seeds": SEEDS, **changes}
    with pytest.raises(ConfigError) as refused:
        tune(TABLES, tmp_path / "out", **how)
    assert str(refused.value).startswith(line)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_fit_are_refused_before_anything_runs(
    tmp_path: Path, curves: Callable[..., Curves]
) -> None:
    asked = curves(slower)
    bad_option = {"strategy": "fedavg", "tune": {"options": {"fraction": [0.1]}}}
    bad_deal = {"data": {**TABLES["data"], "partition": "dirichlet", "alpha": 0.2, "nodes": 6}}
    for change, said in (
        ({"strategies": [bad_option]}, r"^strategies\.options\.fraction = 0\.1: fedavg accepts"),
        (bad_deal, r"^data\.alpha = 0\.2: leaves node .* \(seed 101\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            tune({**TABLES, **change}, tmp_path / "out", budget=2, seeds=SEEDS)
    assert not asked.asked
    assert not (tmp_path / "out").exists()


def told(folder: Path) -> Any:
    """Return what a tuning wrote, but for the time that it took and where it is."""
    found = json.loads((folder / "tuning.json").read_text())
    found.pop("command")
    for setting in found["settings"]:
        for rung in setting["rungs"]:
            rung.pop("wall_seconds")
    _, _, settings = (folder / "tuned.toml").read_text().partition("\n")
    return found, settings


@pytest.mark.slow
def test_real_runs_go_on_after_a_stop_as_if_there_had_been_none(tmp_path: Path) -> None:
    """Stopped in each rung, with a setting that fails: it is not tried again."""
    fragile = {"strategy": "tests.tuning.test_tuner:Fragile", "label": "fragile", "rounds": 1}
    entry = {**fragile, "tune": {"options": {"broken": [True]}}}
    walk = {"strategy": "mfd-walk", "rounds": 1, "tune": {"train": {"lr": [0.001, 0.1]}}}
    kept = {key: TABLES[key] for key in ("name", "seeds", "data", "model")}
    tables = {**kept, "strategies": [entry, walk]}
    how: dict[str, Any] = {"budget": 3, "seeds": SEEDS[:2], "jobs": 1}
    heard: list[tuple[str, object]] = []

    def stop_at(run: str) -> Any:
        def hear(key: str, event: Any) -> None:
            heard.append((key, event))
            if key == run and event == "ends":
                raise KeyboardInterrupt

        return lambda comparison, done: nullcontext(hear)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tune(tables, whole, **how, watch=stop_at(""))
    rungs = [event for key, event in heard if key.startswith("rung")]
    assert rungs == ["5 settings on seed 100", "3 settings on seed 101"]
    for run in ("mfd-walk #1 | seed 100", "fragile #0 | seed 101"):
        with pytest.raises(KeyboardInterrupt, match=r"\d of \d runs are kept in .*rung-"):
            tune(tables, parts, **how, resume=True, watch=stop_at(f"base | {run}"))
        assert not (parts / "tuned.toml").exists()
    heard.clear()
    tune(tables, parts, **how, resume=True, watch=stop_at(""))
    assert not any("100" in key for key, _ in heard)
    assert told(parts) == told(whole)
    found, _ = told(whole)
    broken = found["settings"][1]
    assert broken["why"] == "failed on seed 100: RuntimeError: out of order"
    assert broken["values"] == {"options.broken": True}
    assert [each["chosen"] for each in found["settings"][:2]] == [True, False]
    with pytest.raises(ConfigError, match="another comparison; --overwrite"):
        tune(tables, parts, **{**how, "budget": 2}, resume=True)
    again = tune(tables, parts, **{**how, "budget": 1}, overwrite=True)
    assert [each["tried"] for each in again["searches"]] == [1, 1]
    assert not (parts / "rung-0" / "failed.json").exists()
