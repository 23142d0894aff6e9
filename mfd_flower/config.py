"""A TOML file becomes frozen settings, and every check of a user's input is made here.

One run is described by a `RunConfig`. It flattens to the scalars that Flower carries in its run
config (`RunConfig.flat`, `RunConfig.from_flat`), so a node rebuilds the same settings on any
engine. A `Comparison` is many runs: scenarios x strategies x seeds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints


class ConfigError(ValueError):
    """Bad input, said in one line: what was given where, and what is accepted."""

    def __init__(self, name: str, value: object, accepted: str) -> None:
        super().__init__(f"{name} = {value!r}: {accepted}")


def bounded(default: float, low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    """Declare a number field that must lie in [low, high], or (low, high] when `open_low`."""
    return field(default=default, metadata={"low": low, "high": high, "open_low": open_low})


@dataclass(frozen=True)
class DataConfig:
    """Which images, and who holds them."""

    name: str = "mnist5k"
    """`mnist5k`, `digits`, `fashion-mnist`, `openclipart` or `hf:<owner>/<name>`."""
    path: str = ""
    """Folder of the files, for the sets that are read from one; empty is their usual place."""
    nodes: int = bounded(10, 1)
    partition: Literal["iid", "dirichlet", "classes"] = "iid"
    alpha: float = bounded(0.5, 0.0, open_low=True)
    """Dirichlet concentration of label shares; small is more skewed (partition `dirichlet`)."""
    classes: int = bounded(2, 1)
    """Classes a node holds (partition `classes`, GaisNet Table III)."""
    train_samples: int = bounded(1500, 0)
    """Images over all nodes; 0 takes all that the test set leaves."""
    test_samples: int = bounded(1000, 1)
    """Held-out images that no node trains on."""


@dataclass(frozen=True)
class ModelConfig:
    """The frozen backbone and what is tuned on it."""

    backbone: str = "fm-tiny"
    """`fm-tiny`, `random`, `file:<safetensors>` or `hub:<timm name>`."""
    arch: str = "fm-tiny"
    """Shape for `random` and `file:`: `fm-tiny` or a timm VisionTransformer name."""
    tune: Literal["full", "head", "prompts", "lora"] = "prompts"
    prompts: int = bounded(8, 1)
    """Prompt tokens a layer (VPT)."""
    deep: bool = True
    """Prompts before every block, not only the first."""
    prompt_dropout: float = bounded(0.0, 0.0, 0.99)
    lora_rank: int = bounded(4, 1)
    lora_alpha: int = bounded(8, 1)


@dataclass(frozen=True)
class TrainConfig:
    """One local update."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = bounded(0.01, 0.0, open_low=True)
    momentum: float = bounded(0.0, 0.0, 0.999)
    weight_decay: float = bounded(0.0, 0.0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Within one local update."""
    batch_size: int = bounded(16, 0)
    """0 is the whole shard as one batch."""
    local_epochs: int = bounded(1, 1)
    shuffle: bool = True
    logit_adjustment: float = bounded(0.0, 0.0)
    """Weight of the local log label prior added to the logits (Menon et al., 2007.07314)."""
    proximal_mu: float = bounded(0.0, 0.0)
    """Pull towards the arriving tunables (FedProx, 1812.06127); a message may override it."""
    distillation: float = bounded(0.0, 0.0)
    """Weight of not-true distillation from the arriving model (FedNTD, 2106.03097) on a node of one
    class; it falls with the skew of the node's labels, to nothing where they are even."""
    keep_absent_rows: bool = False
    """Leave the head's rows of classes that the node does not have as they arrived."""
    accelerator: str = "cpu"
    """As Lightning's Trainer takes it."""
    threads: int = bounded(1, 0)
    """Intra-op threads of one fit; 0 leaves torch's setting. Fits side by side fill the cores."""


@dataclass(frozen=True)
class NetworkConfig:
    """Who reaches whom, and rates that turn counted bytes and FLOPs into seconds and joules."""

    topology: Literal["full", "ring", "regular"] = "full"
    """Who can reach whom over one `d2d` link."""
    degree: int = bounded(4, 2)
    """Neighbours of a node (topology `regular`)."""
    up_bps: float = bounded(20e6, 0.0, open_low=True)
    down_bps: float = bounded(100e6, 0.0, open_low=True)
    d2d_bps: float = bounded(50e6, 0.0, open_low=True)
    backhaul_bps: float = bounded(1e9, 0.0, open_low=True)
    latency_s: float = bounded(0.01, 0.0)
    """One-way latency of every message."""
    flops_per_s: float = bounded(5e9, 0.0, open_low=True)
    joules_per_flop: float = bounded(1e-10, 0.0)
    joules_per_bit: float = bounded(1e-7, 0.0)


@dataclass(frozen=True)
class ThreatConfig:
    """Which nodes poison what they send, see `mfd_flower.attacks`; no strategy is told."""

    kind: Literal[
        "", "label-flip", "sign-flip", "scale", "noise", "backdoor", "replay", "tamper"
    ] = ""
    """Empty for honest nodes alone."""
    share: float = bounded(0.2, 0.0, 1.0)
    """Share of the nodes that are malicious."""
    scale: float = bounded(1.0, 0.0, open_low=True)
    """Factor on the update, or of the noise's norm to the update's; `scale` needs one but 1."""
    target: int = bounded(0, 0)
    """Class that the trigger stands for (`backdoor`)."""

    def __post_init__(self) -> None:
        if self.kind == "scale" and self.scale == 1:
            raise ConfigError("threat.scale", self.scale, "kind scale needs a factor other than 1")


@dataclass(frozen=True)
class StrategyConfig:
    """Which algorithm, for how long, with which constructor keywords."""

    name: str = "mfd-walk"
    """A file of `strategies/` (`mfd-walk`) or `package.module:Class`."""
    rounds: int = bounded(10, 1)
    """In one round every node does one local update on average: a FedAvg round, a walk's tour."""
    options: str = "{}"
    """Constructor keywords as JSON."""

    def keywords(self) -> dict[str, Any]:
        """Return the constructor keywords."""
        return dict(json.loads(self.options))


@dataclass(frozen=True)
class RunConfig:
    """Everything that one run depends on."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    network: NetworkConfig = NetworkConfig()
    threat: ThreatConfig = ThreatConfig()
    strategy: StrategyConfig = StrategyConfig()
    seed: int = bounded(0, 0)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Self:
        """Build from nested tables as TOML gives them; unknown keys and bad values are refused."""
        return _build(cls, tables, "")

    def flat(self) -> dict[str, str | int | float | bool]:
        """Return `{"data.name": "mnist5k", ...}`, the form that Flower's run config carries."""
        return dict(_flatten(dataclasses.asdict(self), ""))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `flat`; keys that are not settings of a run are ignored."""
        known = cls().flat()
        tables: dict[str, Any] = {}
        for key, value in values.items():
            if key in known:
                table, _, name = key.rpartition(".")
                (tables.setdefault(table, {}) if table else tables)[name] = value
        return cls.from_tables(tables)


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


COMPARISON_KEYS = ("name", "seeds", "margin", "scenarios", "strategies")
ENTRY_KEYS = ("strategy", "label", "rounds", "options", "yardstick", "only")


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


def _build(cls: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Build dataclass `cls`, checking names, types, choices and bounds."""
    if not isinstance(values, Mapping):
        raise ConfigError(where.rstrip("."), values, "a table")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kwargs: dict[str, Any] = {}
    for key, value in values.items():
        name = where + key
        if key not in fields:
            raise ConfigError(name, value, f"unknown key; accepted: {', '.join(fields)}")
        if dataclasses.is_dataclass(hints[key]):
            kwargs[key] = _build(hints[key], value, name + ".")
        else:
            kwargs[key] = _checked(name, value, hints[key], fields[key].metadata)
    return cls(**kwargs)


def _checked(name: str, value: Any, kind: Any, limits: Mapping[str, Any]) -> Any:
    if choices := get_args(kind):
        if value not in choices:
            raise ConfigError(name, value, f"accepted: {', '.join(choices)}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ConfigError(name, value, f"must be {words[kind]}")
    if limits:
        low, high, open_low = limits["low"], limits["high"], limits["open_low"]
        if not (low < value if open_low else low <= value) or not value <= high:
            over = f"{'above' if open_low else 'at least'} {low:g}"
            under = f" and at most {high:g}" if math.isfinite(high) else ""
            raise ConfigError(name, value, f"must be {over}{under}")
    return value


def _flatten(tables: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
