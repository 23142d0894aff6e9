"""A TOML file becomes a comparison: scenarios x strategies x seeds, each run checked."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfd_flower.checks import ConfigError, checked
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
    for key, table in base.items():
        _table(key, table)
    seeds = tables.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise ConfigError("seeds", seeds, "a list of one or more whole numbers")
    limits = {"low": 0.0, "high": 1.0, "open_low": False}
    margin = checked("margin", tables.get("margin", 0.01), float, limits)
    scenarios = _list_of_tables(tables.get("scenarios", [{"name": "base"}]), "scenarios")
    entries = _list_of_tables(tables.get("strategies", []), "strategies")
    names = [checked("scenarios.name", scenario.get("name"), str) for scenario in scenarios]
    for entry in entries:
        checked("strategies.strategy", entry.get("strategy"), str)
        checked("strategies.label", entry.get("label", ""), str)
        checked("strategies.yardstick", entry.get("yardstick", False), bool)
        only = entry.get("only", [])
        if not isinstance(only, list) or not all(name in names for name in only):
            known = ", ".join(names)
            raise ConfigError("strategies.only", only, f"a list of scenarios, of {known}")
    runs = [
        _planned(base, scenario, entry, seed, sections)
        for scenario in scenarios
        for entry in entries
        for seed in seeds
        if scenario.get("name") in entry.get("only", [scenario.get("name")])
    ]
    keys = [run.key for run in runs]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError("strategies.label", key, "each run needs its own label and seed")
    if not any(run.yardstick for run in runs):
        runs = [
            dataclasses.replace(run, yardstick=run.config.strategy.name == "fedavg") for run in runs
        ]
    name = checked("name", tables.get("name", default_name), str)
    return Comparison(name, margin, tuple(runs))


def _planned(
    base: Mapping[str, Any],
    scenario: Mapping[str, Any],
    entry: Mapping[str, Any],
    seed: int,
    sections: tuple[str, ...],
) -> PlannedRun:
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
            overrides[key] = {**overrides.get(key, {}), **_table(f"{where}.{key}", value)}
    merged = {key: {**base.get(key, {}), **overrides.get(key, {})} for key in sections}
    options = _table("strategies.options", entry.get("options", {}))
    try:
        keywords = json.dumps(options, sort_keys=True)
    except TypeError as error:
        words = f"text, numbers, true, false, lists and tables ({error})"
        raise ConfigError("strategies.options", options, words) from None
    merged["strategy"] = {
        "name": entry["strategy"],
        "options": keywords,
        **({"rounds": entry["rounds"]} if "rounds" in entry else {}),
    }
    config = RunConfig.from_tables({**merged, "seed": seed})
    label = entry.get("label", entry["strategy"])
    return PlannedRun(scenario["name"], label, entry.get("yardstick", False), config)


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(name, value, "a table")
    return value


def _list_of_tables(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise ConfigError(name, value, f"one or more [[{name}]] tables")
    return value
