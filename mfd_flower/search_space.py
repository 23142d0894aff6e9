"""What may vary where an entry of a comparison is tuned: its `tune` table.

The table looks like the entry itself, with a list of values in place of each value::

    [[strategies]]
    strategy = "fedavg"
    train.lr = 0.01
    tune.train.lr = [0.003, 0.01, 0.03]
    tune.options.fraction_train = [0.1, 0.3, 1.0]

Values that belong together vary as one, each table with the same settings::

    tune.together = [{ rounds = 40, train.lr = 0.01 }, { rounds = 8, train.lr = 0.03 }]

A `tune` table of the file holds for all entries. Where an entry has a list of its own for a setting
that one counts, and an empty one leaves the setting as it is. Data, network, faults and threat are
the task and not the method: they do not vary.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfd_flower.checks import ConfigError

KEYS = ("rounds", "options", "model", "train", "trainer", "wire")
TOGETHER = "together"
MOST_COMBINATIONS = 100_000

MOST_LEVELS = 20

KeyPath = tuple[str, ...]
"""Where a setting stands in an entry: ``("train", "lr")``."""
Values = Mapping[KeyPath, Any]
Tables = Mapping[str, Any]


@dataclass(frozen=True)
class Dimension:
    """A setting that may vary, or several that vary as one."""

    path: KeyPath
    values: tuple[Any, ...]
    name: str
    """What an error calls it."""

    def settings(self, value: Any) -> Values:
        """Return what one of the values sets."""
        return dict(_leaves(value, ())) if self.path == (TOGETHER,) else {self.path: value}

    @property
    def places(self) -> Sequence[KeyPath]:
        """What it sets, whichever value it has."""
        return [*self.settings(self.values[0])]


Space = tuple[Dimension, ...]
"""In the order of their paths, so that the order of the lines in a file does not matter."""


def search_space(common: Any, own: Any) -> Space:
    """Return what the `tune` tables of a file and of an entry let vary.

    Raises
    ------
    ConfigError
        If a table has another form than described above, or too many combinations.
    """
    lists = {**_dimensions(common, "tune"), **_dimensions(own, "strategies.tune")}
    space = tuple(lists[path] for path in sorted(lists) if lists[path].values)
    _check_apart(space)
    if (size := combinations(space)) > MOST_COMBINATIONS:
        raise ConfigError("strategies.tune", f"{size} combinations", f"at most {MOST_COMBINATIONS}")
    return space


def combinations(space: Space) -> int:
    """Return how many combinations of values there are."""
    return math.prod(len(dimension.values) for dimension in space)


def in_drawn_order(space: Space, seed: int) -> list[Values]:
    """Return every combination once, in an order that follows from the space and the seed alone.

    The first so many are a sample without repetition, and a larger sample begins with them.
    """
    each = [[dimension.settings(value) for value in dimension.values] for dimension in space]
    combined: list[Values] = [
        {path: value for part in parts for path, value in part.items()}
        for parts in itertools.product(*each)
    ]
    random.Random(seed).shuffle(combined)
    return combined


def varied(entry: Tables, values: Values) -> dict[str, Any]:
    """Return an entry with other values in these places, and nothing left to vary."""
    changed = {key: value for key, value in entry.items() if key != "tune"}
    for path, value in values.items():
        changed = _with(changed, path, value)
    return changed


def dotted(path: KeyPath) -> str:
    """Return a path as one name, ``train.lr``."""
    return ".".join(path)


def _dimensions(table: Any, where: str) -> dict[KeyPath, Dimension]:
    if not isinstance(table, Mapping):
        raise ConfigError(where, table, "a table of lists of values to try")
    _check_keys(table, where, (*KEYS, TOGETHER))
    if TOGETHER in table:
        _check_together(table[TOGETHER], f"{where}.{TOGETHER}")
    return {each.path: each for each in _lists(table, (), where)}


def _check_keys(table: Tables, where: str, keys: Sequence[str]) -> None:
    for key, value in table.items():
        if key not in keys:
            accepted = f"unknown key; accepted: {', '.join(keys)}"
            quoted = "one key, for it is in quotes; accepted without them"
            raise ConfigError(f"{where}.{key}", value, quoted if "." in key else accepted)


def _check_together(tables: Any, where: str) -> None:
    """Raise ConfigError if these are not tables that set the same."""
    if not isinstance(tables, list):
        raise ConfigError(where, tables, "a list of tables, each with values that belong together")
    for table in tables:
        if not isinstance(table, Mapping) or not table:
            raise ConfigError(where, table, "a table of values that belong together")
        _check_keys(table, where, KEYS)
        here, first = ({path for path, _ in _leaves(each, ())} for each in (table, tables[0]))
        if here != first:
            names = ", ".join(sorted(map(dotted, first)))
            raise ConfigError(where, table, f"values of {names}, as in the first of these tables")


def _check_apart(space: Space) -> None:
    """Raise ConfigError if two lists would set the same."""
    owner: dict[KeyPath, Dimension] = {}
    for dimension in space:
        for path in dimension.places:
            for known, other in owner.items():
                if known[: len(path)] == path[: len(known)]:
                    raise ConfigError(
                        dimension.name,
                        dotted(path),
                        f"{other.name} sets it too; accepted: one list",
                    )
        owner |= dict.fromkeys(dimension.places, dimension)


def _leaves(table: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield what is set in nested tables, and where."""
    if len(path) > MOST_LEVELS:
        raise ConfigError(dotted(path[:1]), dotted(path[1:3]), "nested too deep")
    if not isinstance(table, Mapping) or not table:
        yield path, table
        return
    for key, value in table.items():
        yield from _leaves(value, (*path, key))


def _lists(table: Tables, path: KeyPath, where: str) -> Iterator[Dimension]:
    for key, value in table.items():
        name = f"{where}.{key}"
        if len(path) > MOST_LEVELS:
            raise ConfigError(where, table, "nested too deep")
        if isinstance(value, Mapping):
            yield from _lists(value, (*path, key), name)
            continue
        if not isinstance(value, list):
            raise ConfigError(name, value, "a list of values to try")
        if _repeats(value):
            raise ConfigError(name, value, "each value once")
        yield Dimension((*path, key), tuple(value), name)


def _repeats(values: Sequence[Any]) -> bool:
    """Whether a value is there twice; not all of TOML's can be hashed."""
    return any(value in values[:place] for place, value in enumerate(values))


def _with(table: Tables, path: KeyPath, value: Any) -> dict[str, Any]:
    key, *rest = path
    inner = table.get(key)
    here = inner if isinstance(inner, Mapping) else {}
    return {**table, key: _with(here, tuple(rest), value) if rest else value}
