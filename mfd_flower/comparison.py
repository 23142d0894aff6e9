"""A TOML file becomes a comparison: scenarios x strategies x seeds, each run checked."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig

COMPARISON_KEYS = ("name", "seeds", "margin", "scenarios", "strategies")
ENTRY_KEYS = ("strategy", "label", "rounds", "options", "yardstick", "only")


@dataclass(frozen=True)
class PlannedRun:
    """One cell of a comparison."""

    scenario: str
    label: str
    yardstick: bool
    """Whether this entry may set the accuracy that the others have to reach."""
    config: RunConfig

    @property
    def key(self) -> str:
        """Unique within a comparison."""
        return f"{self.scenario} | {self.label} | seed {self.config.seed}"


@dataclass(frozen=True)
class Comparison:
    """Every strategy on every scenario with every seed."""

    name: str
    margin: float
    """Accuracy below the yardstick's final one that counts as reaching it."""
    runs: tuple[PlannedRun, ...]

    def describe(self) -> dict[str, Any]:
        """Return a JSON form from which equality of two comparisons can be told."""
        runs = [
            {
                "scenario": run.scenario,
                "strategy": run.label,
                "yardstick": run.yardstick,
                "settings": run.config.flat(),
            }
            for run in self.runs
        ]
        return {"name": self.name, "margin": self.margin, "runs": runs}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one line why not."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("config", str(path), f"not readable ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", str(path), f"not valid TOML ({error})") from error


def load_comparison(path: Path) -> Comparison:
    """Read a comparison from a TOML file; see `experiments/compare.toml` for one."""
    return comparison_from_tables(read_toml(path), default_name=path.stem)


def comparison_from_tables(tables: Mapping[str, Any], default_name: str) -> Comparison:
    """Resolve scenarios, entries and seeds into runs, each of them checked."""
    sections = tuple(f.name for f in dataclasses.fields(RunConfig) if f.name != "seed")
    base = {key: tables[key] for key in sections if key in tables and key != "strategy"}
    for key in tables:
        if key not in COMPARISON_KEYS and key not in base:
            accepted = [*COMPARISON_KEYS, *(s for s in sections if s != "strategy")]
            raise ConfigError(key, tables[key], f"unknown key; accepted: {', '.join(accepted)}")
    seeds = tables.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise ConfigError("seeds", seeds, "a list of one or more whole numbers")
    margin = tables.get("margin", 0.01)
    if not isinstance(margin, float) or not 0 <= margin < 1:
        raise ConfigError("margin", margin, "a number from 0 to below 1")
    scenarios = _list_of_tables(tables.get("scenarios", [{"name": "base"}]), "scenarios")
    entries = _list_of_tables(tables.get("strategies", []), "strategies")
    runs = [
        _planned(base, scenario, entry, seed, sections)
        for scenario in scenarios
        for entry in entries
        for seed in seeds
        if scenario.get("name") in entry.get("only", [scenario.get("name")])
    ]
    names = [scenario.get("name") for scenario in scenarios]
    for entry in entries:
        if not isinstance(entry.get("only", []), list) or set(entry.get("only", [])) - set(names):
            known = ", ".join(map(str, names))
            raise ConfigError("strategies.only", entry["only"], f"a list of scenarios, of {known}")
    keys = [run.key for run in runs]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError("strategies.label", key, "each run needs its own label and seed")
    if not any(run.yardstick for run in runs):
        runs = [
            dataclasses.replace(run, yardstick=run.config.strategy.name == "fedavg") for run in runs
        ]
    return Comparison(str(tables.get("name", default_name)), margin, tuple(runs))


def _planned(
    base: Mapping[str, Any],
    scenario: Mapping[str, Any],
    entry: Mapping[str, Any],
    seed: int,
    sections: tuple[str, ...],
) -> PlannedRun:
    if "name" not in scenario:
        raise ConfigError("scenarios.name", None, "every scenario needs a name")
    if "strategy" not in entry:
        raise ConfigError("strategies.strategy", None, "every entry names its strategy")
    overrides: dict[str, Any] = {}
    for where, table, own in (
        ("scenarios", scenario, ("name",)),
        ("strategies", entry, ENTRY_KEYS),
    ):
        for key, value in table.items():
            if key in own:
                continue
            if key not in sections or key == "strategy":
                accepted = [*own, *(s for s in sections if s != "strategy")]
                raise ConfigError(
                    f"{where}.{key}", value, f"unknown key; accepted: {', '.join(accepted)}"
                )
            overrides[key] = {**overrides.get(key, {}), **value}
    merged = {key: {**base.get(key, {}), **overrides.get(key, {})} for key in sections}
    options = entry.get("options", {})
    if not isinstance(options, dict):
        raise ConfigError("strategies.options", options, "a table of constructor keywords")
    merged["strategy"] = {
        "name": entry["strategy"],
        "options": json.dumps(options, sort_keys=True),
        **({"rounds": entry["rounds"]} if "rounds" in entry else {}),
    }
    config = RunConfig.from_tables({**merged, "seed": seed})
    label = str(entry.get("label", entry["strategy"]))
    return PlannedRun(str(scenario["name"]), label, bool(entry.get("yardstick", False)), config)


def _list_of_tables(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise ConfigError(name, value, f"one or more [[{name}]] tables")
    return value
