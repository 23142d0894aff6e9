"""A TOML file becomes a comparison: scenarios x strategies x seeds, each run checked."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from mfd_flower.checks import ConfigError, checked
from mfd_flower.config import RunConfig
from mfd_flower.search_space import Space, search_space, varied

APART = ("seed", "strategy", "profiles")
SECTIONS = tuple(f.name for f in fields(RunConfig) if f.name not in APART)
COMPARISON_KEYS = (
    *("name", "seeds", "margin", "metric", "checkpoint_every", "tune"),
    *("scenarios", "strategies", "profiles"),
)
BASELINES = ("fedavg", "ridge", "class-means", "fedcof", "gossip")
"""What may be a yardstick without being named one, beside all of Flower's own strategies."""
CHECKPOINT_EVERY = 10
ENTRY_KEYS = ("strategy", "label", "rounds", "options", "yardstick", "only", "tune", "profiles")

Tables = Mapping[str, Any]
Metric = Literal["accuracy", "macro_accuracy"]
"""What targets are of: the share of samples that are right, or its mean over the classes."""


@dataclass(frozen=True)
class PlannedRun:
    """One cell of a comparison."""

    scenario: str
    label: str
    yardstick: bool
    """Whether this entry is a baseline, of which the cheapest is what others are measured by."""
    config: RunConfig

    @property
    def cell(self) -> tuple[str, str, int]:
        """Scenario, label and seed; unique within a comparison."""
        return self.scenario, self.label, self.config.seed

    @property
    def key(self) -> str:
        """The cell in words."""
        return f"{self.scenario} | {self.label} | seed {self.config.seed}"


@dataclass(frozen=True)
class Comparison:
    """Every strategy on every scenario with every seed."""

    name: str
    margin: float
    """Share of the best accuracy by which the headline's target lies below it."""
    metric: Metric
    """What targets are of."""
    runs: tuple[PlannedRun, ...]
    checkpoint_every: int = CHECKPOINT_EVERY
    """Steps from one checkpoint of a run to the next; 0 keeps none. No number depends on it."""

    def describe(self) -> dict[str, Any]:
        """Return a JSON form from which equality of two comparisons can be told."""
        keys = ("scenario", "strategy", "yardstick", "settings")
        runs = [(run.scenario, run.label, run.yardstick, run.config.flat()) for run in self.runs]
        described = [dict(zip(keys, run, strict=True)) for run in runs]
        told = {"name": self.name, "margin": self.margin, "metric": self.metric}
        return {**told, "runs": described}


def same_runs(one: Tables, other: Tables) -> bool:
    """Tell whether two comparisons, as `Comparison.describe` tells them, have the same runs."""

    def plain(told: Tables) -> dict[str, Any]:
        runs = [{**run, "settings": RunConfig.given(run["settings"])} for run in told["runs"]]
        return {**told, "runs": runs}

    try:
        return plain(one) == plain(other)
    except (KeyError, TypeError, AttributeError):  # A file may hold anything.
        return False


def load_comparison(
    config: Path | str | Tables, strategy: str | None = None, rounds: int | None = None
) -> Comparison:
    """Read a comparison from a TOML file, as `experiments/compare.toml` is one, or from its tables.

    With a `strategy` that one alone is kept, as its first entry has it if there is one, and
    `rounds` replaces that entry's.
    """
    name, tables = named_tables(config)
    if strategy is not None:
        entries = _list_of_tables(tables.get("strategies", [{}]), "strategies")
        entry = next((e for e in entries if e.get("strategy") == strategy), {"strategy": strategy})
        changed = {} if rounds is None else {"rounds": rounds}
        tables = {**tables, "strategies": [{**entry, **changed}]}
    return comparison_from_tables(tables, default_name=name)


def named_tables(config: Path | str | Tables) -> tuple[str, Tables]:
    """Return the tables of a comparison, and what it is called if they do not say it."""
    if isinstance(config, Mapping):
        return "comparison", config
    return Path(config).stem, _read_toml(Path(config))


def comparison_from_tables(tables: Tables, default_name: str) -> Comparison:
    """Resolve scenarios, entries and seeds into runs, each of them checked."""
    base = _sections(tables, COMPARISON_KEYS) | _own(tables, "profiles")
    seeds = tables.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise ConfigError("seeds", seeds, "a list of one or more whole numbers")
    limits = {"low": 0.0, "high": 1.0, "open_low": False}
    margin = checked("margin", tables.get("margin", 0.01), float, limits)
    metric = checked("metric", tables.get("metric", "accuracy"), Metric)
    every = checked(
        "checkpoint_every", tables.get("checkpoint_every", CHECKPOINT_EVERY), int, {"low": 0}
    )
    scenarios = _list_of_tables(tables.get("scenarios", [{"name": "base"}]), "scenarios")
    for scenario in scenarios:
        checked("scenarios.name", scenario.get("name"), str)
    names = [scenario["name"] for scenario in scenarios]
    entries = _list_of_tables(tables.get("strategies", []), "strategies")
    for entry in entries:
        checked("strategies.label", entry.get("label", ""), str)
        checked("strategies.yardstick", entry.get("yardstick", False), bool)
        only = entry.get("only", names)
        if not isinstance(only, list) or not only or not all(name in names for name in only):
            accepted = f"a list of one or more scenarios, of {', '.join(names)}"
            raise ConfigError("strategies.only", only, accepted)
    runs = [
        _planned(base, scenario, entry, seed)
        for scenario in scenarios
        for entry in entries
        for seed in seeds
        if scenario["name"] in entry.get("only", names)
    ]
    key, count = Counter(run.key for run in runs).most_common(1)[0] if runs else ("", 0)
    if count > 1:
        raise ConfigError("strategies.label", key, "each run needs its own label and seed")
    for entry in entries:
        space, only = search_space(tables.get("tune", {}), entry.get("tune", {})), entry.get("only")
        here = [each for each in scenarios if only is None or each["name"] in only]
        _check_values(base, here, entry, space, seeds[0])
    if not any(run.yardstick for run in runs):
        runs = [replace(run, yardstick=_is_baseline(run.config.strategy.name)) for run in runs]
    name = checked("name", tables.get("name", default_name), str)
    return Comparison(name, margin, metric, tuple(runs), every)


def _check_values(
    base: Tables, scenarios: list[dict[str, Any]], entry: Tables, space: Space, seed: int
) -> None:
    """Try each value that may vary by itself, in each scenario of the entry."""
    for dimension, scenario in itertools.product(space, scenarios):
        for value in dimension.values:
            try:
                _planned(base, scenario, varied(entry, dimension.settings(value)), seed)
            except ConfigError as error:
                raise ConfigError(dimension.name, value, error.args[2]) from None


def _is_baseline(strategy: str) -> bool:
    """Whether a strategy is what others have to beat where a file does not say it."""
    return strategy in BASELINES or strategy.startswith("flwr.")


def _as_json(where: str, *tables: Any) -> str:
    """Return tables as one, in which the later ones count."""
    options: dict[str, Any] = {}
    for table in tables:
        if not isinstance(table, dict):
            raise ConfigError(where, table, "a table of constructor keywords")
        options |= table
    return _dumped(where, options)


def _dumped(where: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError:  # TOML has dates and times.
        raise ConfigError(where, value, "JSON has no such values") from None
    except RecursionError:
        raise ConfigError(where, value, "nested too deep") from None


def _planned(base: Tables, scenario: Tables, entry: Tables, seed: int) -> PlannedRun:
    strategy = checked("strategies.strategy", entry.get("strategy"), str)
    told = _sections(entry, ENTRY_KEYS, "strategies.")
    layers = (base, _sections(scenario, ("name", "profiles"), "scenarios."), told)
    merged = {key: {k: v for t in layers for k, v in t.get(key, {}).items()} for key in SECTIONS}
    for section in ("data", "network"):
        told_here = [t[section]["options"] for t in layers if "options" in t.get(section, {})]
        if told_here:
            merged[section]["options"] = _as_json(f"{section}.options", *told_here)
    text = _as_json("strategies.options", entry.get("options", {}))
    rounds = {"rounds": entry["rounds"]} if "rounds" in entry else {}
    merged["strategy"] = {"name": strategy, "options": text, **rounds}
    profiles = [t["profiles"] for t in (base, scenario, entry) if "profiles" in t]
    own = {"profiles": _dumped("profiles", profiles[-1])} if profiles else {}
    config = RunConfig.from_tables({**merged, **own, "seed": seed})
    label = entry.get("label", strategy)
    return PlannedRun(scenario["name"], label, entry.get("yardstick", False), config)


def _sections(tables: Tables, own: tuple[str, ...], where: str = "") -> dict[str, Tables]:
    """Return the tables of settings in a table that may also have keys of its own."""
    for key, value in tables.items():
        if key not in own and key not in SECTIONS:
            accepted = ", ".join((*own, *SECTIONS))
            raise ConfigError(f"{where}{key}", value, f"unknown key; accepted: {accepted}")
        if key in SECTIONS and not isinstance(value, Mapping):
            raise ConfigError(f"{where}{key}", value, "a table")
    return {key: tables[key] for key in SECTIONS if key in tables}


def _own(tables: Tables, key: str) -> dict[str, Any]:
    return {key: tables[key]} if key in tables else {}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError("config", str(path), f"not readable ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", str(path), f"not valid TOML ({error})") from error
    except RecursionError:
        raise ConfigError("config", str(path), "nested too deep") from None


def _list_of_tables(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise ConfigError(name, value, f"one or more [[{name}]] tables")
    return value
