"""Every bad input is refused in one line that names field, value and what is accepted."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import comparison_from_tables, load_comparison
from mfd_flower.config import RunConfig, WireConfig
from mfd_flower.packets import CODECS

ROOT = Path(__file__).parents[1]
DAY = datetime.date(2025, 1, 1)


@pytest.mark.parametrize(
    ("tables", "field", "accepted"),
    [
        ({"data": {"alpha": 0}}, "data.alpha", "above 0"),
        ({"data": {"alpha": -1.0}}, "data.alpha", "above 0"),
        ({"data": {"alpha": float("nan")}}, "data.alpha", "above 0"),
        ({"data": {"nodes": 0}}, "data.nodes", "at least 1"),
        ({"data": {"nodes": True}}, "data.nodes", "whole number"),
        ({"data": {"nodes": "10"}}, "data.nodes", "whole number"),
        ({"data": {"partition": "shards"}}, "data.partition", "iid, dirichlet, classes"),
        ({"data": {"colour": 1}}, "data.colour", "nodes"),
        ({"model": {"tune": "bias"}}, "model.tune", "full, head, prompts, lora"),
        ({"model": {"deep": 1}}, "model.deep", "true or false"),
        ({"train": {"lr": 0.0}}, "train.lr", "above 0"),
        ({"train": {"lr": "big"}}, "train.lr", "a number"),
        ({"train": {"momentum": 1.5}}, "train.momentum", "at most 0.999"),
        ({"train": 3}, "train", "a table"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"speed": 1}, "speed", "data, model"),
        ({"data": 5}, "data", "a table"),
        ({"data": [{"nodes": 3}]}, "data", "a table"),
        ({"data": {"name": {"x": 1}}}, "data.name", "a string"),
        ({"data": {"nodes": {}}}, "data.nodes", "whole number"),
        ({"data": {"nodes": 2**63}}, "data.nodes", "at most 9223372036854775807"),
        ({"data": {"nodes": 10**5000}}, "data.nodes", "at least 1"),
        ({"data": {"alpha": float("inf")}}, "data.alpha", "finite and above 0"),
        ({"data": {"alpha": 10**400}}, "data.alpha", "finite and above 0"),
        ({"data": {"alpha": [0.5]}}, "data.alpha", "a number"),
        ({"data": {"partition": ["iid"]}}, "data.partition", "iid, dirichlet, classes"),
        ({"data": {"a\nb": 1}}, "data.'a\\nb'", "unknown key"),
        ({"model": {"tune": {"lora": 1}}}, "model.tune", "full, head, prompts, lora"),
        ({"model": {"deep": "true"}}, "model.deep", "true or false"),
        ({"train": {"lr": float("inf")}}, "train.lr", "finite and above 0"),
        ({"train": {"lr": float("nan")}}, "train.lr", "finite and above 0"),
        ({"train": {"lr": True}}, "train.lr", "a number"),
        ({"train": {"batch_size": False}}, "train.batch_size", "whole number"),
        ({"network": {"latency_s": float("inf")}}, "network.latency_s", "finite and at least 0"),
        ({"threat": {"kind": "scale", "scale": float("nan")}}, "threat.scale", "finite"),
        ({"strategy": "fedavg"}, "strategy", "a table"),
        ({"seed": 2**63}, "seed", "at most 9223372036854775807"),
        ({"seed": True}, "seed", "whole number"),
        ({"seed": [0]}, "seed", "whole number"),
        ({"seed": {}}, "seed", "whole number"),
    ],
)
def test_bad_setting_is_refused(tables: dict[str, Any], field: str, accepted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_tables(tables)
    line = str(caught.value)
    assert line.startswith(f"{field} = ")
    assert accepted in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("tables", "field"),
    [
        ({}, "strategies"),
        ({"strategies": [{}]}, "strategies.strategy"),
        ({"strategies": [{"strategy": "fedavg", "lr": 1}]}, "strategies.lr"),
        ({"strategies": [{"strategy": "fedavg", "rounds": 0}]}, "strategy.rounds"),
        ({"strategies": [{"strategy": "fedavg", "options": 3}]}, "strategies.options"),
        ({"strategies": [{"strategy": "fedavg"}] * 2}, "strategies.label"),
        ({"strategies": [{"strategy": "fedavg"}], "seeds": []}, "seeds"),
        ({"strategies": [{"strategy": "fedavg"}], "seeds": [0.5]}, "seeds"),
        ({"strategies": [{"strategy": "fedavg"}], "margin": 2.0}, "margin"),
        ({"strategies": [{"strategy": "fedavg"}], "scenarios": [{}]}, "scenarios.name"),
        ({"strategies": [{"strategy": "fedavg"}], "trian": {}}, "trian"),
        ({"strategies": "x"}, "strategies"),
        ({"strategies": {"strategy": "fedavg"}}, "strategies"),
        ({"strategies": ["fedavg"]}, "strategies"),
        ({"strategies": [{"strategy": 5}]}, "strategies.strategy"),
        ({"strategies": [{"strategy": ["fedavg"]}]}, "strategies.strategy"),
        ({"strategies": [{"strategy": "fedavg", "label": {}}]}, "strategies.label"),
        ({"strategies": [{"strategy": "fedavg", "yardstick": "no"}]}, "strategies.yardstick"),
        ({"strategies": [{"strategy": "fedavg", "only": "base"}]}, "strategies.only"),
        ({"strategies": [{"strategy": "fedavg", "only": [["base"]]}]}, "strategies.only"),
        ({"strategies": [{"strategy": "fedavg", "train": 3}]}, "strategies.train"),
        ({"strategies": [{"strategy": "fedavg", "train": [{"lr": 1}]}]}, "strategies.train"),
        ({"strategies": [{"strategy": "fedavg", "rounds": "1"}]}, "strategy.rounds"),
        ({"strategies": [{"strategy": "fedavg", "options": "{}"}]}, "strategies.options"),
        ({"strategies": [{"strategy": "fedavg", "options": {"x": DAY}}]}, "strategies.options"),
        ({"strategies": [{"strategy": "fedavg"}], "data": 5}, "data"),
        ({"strategies": [{"strategy": "fedavg"}], "train": "x"}, "train"),
        ({"strategies": [{"strategy": "fedavg"}], "scenarios": 5}, "scenarios"),
        (
            {"strategies": [{"strategy": "fedavg"}], "scenarios": [{"name": ["a"]}]},
            "scenarios.name",
        ),
        ({"strategies": [{"strategy": "fedavg"}], "scenarios": {"name": "a"}}, "scenarios"),
        (
            {"strategies": [{"strategy": "fedavg"}], "scenarios": [{"name": "a", "data": 1}]},
            "scenarios.data",
        ),
        ({"strategies": [{"strategy": "fedavg"}], "seeds": 3}, "seeds"),
        ({"strategies": [{"strategy": "fedavg"}], "seeds": [True]}, "seeds"),
        ({"strategies": [{"strategy": "fedavg"}], "seeds": [2**64]}, "seed"),
        ({"strategies": [{"strategy": "fedavg"}], "seeds": [-1]}, "seed"),
        ({"strategies": [{"strategy": "fedavg"}], "margin": float("nan")}, "margin"),
        ({"strategies": [{"strategy": "fedavg"}], "margin": [0.1]}, "margin"),
        ({"strategies": [{"strategy": "fedavg"}], "name": {}}, "name"),
        ({"strategies": [{"strategy": "fedavg"}], "strategy": {"name": "x"}}, "strategy"),
    ],
)
def test_bad_comparison_is_refused(tables: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} = ") as caught:
        comparison_from_tables(tables, "test")
    assert "\n" not in str(caught.value)


def test_options_that_are_nested_too_deep_are_refused() -> None:
    options: dict[str, Any] = {}
    for _ in range(100_000):
        options = {"a": options}
    line = r"^strategies\.options = dict: nested too deep$"
    with pytest.raises(ConfigError, match=line):
        comparison_from_tables({"strategies": [{"strategy": "fedavg", "options": options}]}, "x")


def test_a_margin_may_be_nothing_and_a_whole_number() -> None:
    comparison = comparison_from_tables({"strategies": [{"strategy": "x"}], "margin": 0}, "test")
    assert comparison.margin == 0


@pytest.mark.parametrize("options", ["", "[1]", "{", "3", '{"a":1,"a":2}'])
def test_options_of_a_run_are_a_json_object(options: str) -> None:
    run = RunConfig.from_flat({**RunConfig().flat(), "strategy.options": options})
    with pytest.raises(ConfigError, match=r"^strategy\.options = "):
        run.strategy.keywords()


def test_entry_overrides_scenario_overrides_base() -> None:
    comparison = comparison_from_tables(
        {
            "seeds": [3],
            "train": {"lr": 0.1, "local_epochs": 2},
            "scenarios": [{"name": "x", "train": {"lr": 0.2}, "data": {"alpha": 0.3}}],
            "strategies": [
                {"strategy": "fedavg"},
                {"strategy": "mfd-walk", "train": {"lr": 0.5}, "options": {"policy": "random"}},
            ],
        },
        "test",
    )
    first, second = (run.config for run in comparison.runs)
    assert (first.train.lr, second.train.lr) == (0.2, 0.5)
    assert first.train.local_epochs == second.train.local_epochs == 2
    assert first.data.alpha == 0.3
    assert first.seed == 3
    assert second.strategy.keywords() == {"policy": "random"}
    assert [run.yardstick for run in comparison.runs] == [True, False]


def test_flat_form_is_inverted_and_survives_flower() -> None:
    run = RunConfig.from_tables({"seed": 7, "data": {"alpha": 0.25}, "model": {"tune": "lora"}})
    flat = run.flat()
    assert RunConfig.from_flat(flat) == run
    assert all(type(value) in (str, int, float, bool) for value in flat.values())
    assert RunConfig.from_flat({**flat, "out": "/somewhere"}) == run


def test_the_wire_has_the_codecs_of_packets() -> None:
    assert {*get_args(get_type_hints(WireConfig)["codec"])} == CODECS.keys()
    assert not RunConfig().wire.coded
    assert WireConfig("fp16").coded
    assert WireConfig(top_k=0.5).coded


def test_flower_app_config_lists_every_setting_with_its_default() -> None:
    from flwr.common.config import flatten_dict

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shown = flatten_dict(project["tool"]["flwr"]["app"]["config"])
    files = {"out": "", "checkpoint_every": 0, "resume": False, "state-dir": ""}
    assert shown == {**files, **RunConfig().flat()}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda f: f.stem
)
def test_shipped_experiments_are_valid(file: Path) -> None:
    assert load_comparison(file).runs


def test_broken_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("seeds = [0,\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_comparison(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_comparison(broken)
    with pytest.raises(ConfigError, match="not readable"):
        load_comparison(tmp_path / "absent.toml")


def test_an_entry_may_be_kept_to_some_scenarios() -> None:
    tables = {
        "scenarios": [{"name": "a"}, {"name": "b"}],
        "strategies": [{"strategy": "fedavg"}, {"strategy": "mfd-walk", "only": ["b"]}],
    }
    runs = comparison_from_tables(tables, "test").runs
    assert [(r.scenario, r.label) for r in runs] == [
        ("a", "fedavg"),
        ("b", "fedavg"),
        ("b", "mfd-walk"),
    ]
    tables["strategies"][1]["only"] = ["c"]
    with pytest.raises(
        ConfigError, match=r"strategies\.only = \['c'\]: a list of one or more scenarios, of a, b"
    ):
        comparison_from_tables(tables, "test")
