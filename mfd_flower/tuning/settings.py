"""The settings of each entry that are tried in each scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import Comparison, PlannedRun, Tables, comparison_from_tables
from mfd_flower.config import RunConfig
from mfd_flower.parameters import parameters_of
from mfd_flower.search_space import KeyPath, Space, Values, in_drawn_order, search_space, varied
from mfd_flower.strategy import find_strategy


@dataclass(frozen=True)
class Setting:
    """One setting of an entry."""

    number: int
    """0 is the entry as it stands; the others in the order in which they were drawn."""
    values: Values
    """Of all that may vary."""
    label: str
    """Of its runs."""
    entry: Tables
    """The entry with these values, in this scenario alone."""


@dataclass(frozen=True)
class Search:
    """The settings of one entry that are tried in one scenario."""

    place: int
    """Of the entry in the file."""
    label: str
    scenario: str
    space: Space
    combinations: int
    """Different settings that there are, the entry's own among them."""
    settings: tuple[Setting, ...]


def in_scenarios(tables: Tables, wanted: Sequence[str]) -> Tables:
    """Return a comparison with some of its scenarios, and the entries that those have."""
    names = [each["name"] for each in tables.get("scenarios", [{"name": "base"}])]
    for name in wanted:
        if name not in names:
            raise ConfigError("--scenario", name, f"accepted: {', '.join(names)}")
    entries = []
    for entry in tables["strategies"]:
        here = [name for name in entry.get("only", names) if name in wanted]
        if here:
            entries.append({**entry, "only": here} if "only" in entry else entry)
    kept = [each for each in tables.get("scenarios", []) if each["name"] in wanted]
    return {**tables, **({"scenarios": kept} if kept else {}), "strategies": entries}


def searches_of(tables: Tables, budget: int, seed: int) -> list[Search]:
    """Draw what is tried: the entry's own settings, and others up to the budget if there are."""
    found = []
    names = [each["name"] for each in tables.get("scenarios", [{"name": "base"}])]
    for scenario in names:
        for place, entry in enumerate(tables["strategies"]):
            if scenario in entry.get("only", names):
                found.append(_search(tables, place, scenario, budget, seed))
    if not any(search.space for search in found):
        raise ConfigError("tune", None, "missing; no entry says what may vary")
    return found


def comparison_of(
    tables: Tables, entries: Sequence[Tables], seeds: Sequence[int], name: str
) -> Comparison:
    """Return the comparison of other entries with other seeds, all else alike."""
    changed = {"strategies": [*entries], "seeds": [*seeds]}
    kept = {key: value for key, value in tables.items() if key != "tune"}
    return comparison_from_tables({**kept, **changed}, name)


def _search(tables: Tables, place: int, scenario: str, budget: int, seed: int) -> Search:
    entry = tables["strategies"][place]
    space = search_space(tables.get("tune", {}), entry.get("tune", {}))
    label = entry.get("label", entry["strategy"])
    (planned,) = comparison_of(tables, [_alone(entry, {}, scenario, label)], [seed], "").runs
    own = {path: _value(planned, path) for dimension in space for path in dimension.places}
    others = [values for values in in_drawn_order(space, seed) if values != own]
    settings = []
    for number, values in enumerate([own, *others[: budget - 1]]):
        name, changes = f"{label} #{number}", values if number else {}
        settings.append(Setting(number, values, name, _alone(entry, changes, scenario, name)))
    return Search(place, label, scenario, space, len(others) + 1, tuple(settings))


def _alone(entry: Tables, changes: Values, scenario: str, label: str) -> Tables:
    return {**varied(entry, changes), "label": label, "only": [scenario]}


def _value(planned: PlannedRun, path: KeyPath) -> Any:
    """Return what a run has at a place of its entry; an option's default if that is not set."""
    run, (key, *rest) = planned.config, path
    if key == "rounds":
        return run.strategy.rounds
    found: Any = _options(run) if key == "options" else asdict(getattr(run, key))
    for name in rest:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _options(run: RunConfig) -> dict[str, Any]:
    options = parameters_of(find_strategy(run.strategy.name))
    defaults = {name: option.get("default") for name, option in options.items()}
    return {**defaults, **run.strategy.keywords()}
