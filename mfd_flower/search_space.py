"""What may vary where an entry of a comparison is tuned: its `tune` table.

The table looks like the entry itself, with a list of values in place of each value::

    [[strategies]]
    strategy = "fedavg"
    train.lr = 0.01
    tune.train.lr = [0.003, 0.01, 0.03]
    tune.options.fraction_train = [0.1, 0.3, 1.0]

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
MOST_COMBINATIONS = 100_000

MOST_LEVELS = 20

KeyPath = tuple[str, ...]
"""Where a setting stands in an entry: ``("train", "lr")``."""
Values = Mapping[KeyPath, Any]
Tables = Mapping[str, Any]


@dataclass(frozen=True)
class Dimension:
    """A setting that may vary."""

    path: KeyPath
    values: tuple[Any, ...]
    name: str
    """What an error calls it."""


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
    paths = [dimension.path for dimension in space]
    product = itertools.product(*(dimension.values for dimension in space))
    combined: list[Values] = [dict(zip(paths, values, strict=True)) for values in product]
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
    for key, value in table.items():
        if key not in KEYS:
            accepted = f"unknown key; accepted: {', '.join(KEYS)}"
            quoted = "one key, for it is in quotes; accepted without them"
            raise ConfigError(f"{where}.{key}", value, quoted if "." in key else accepted)
    return {each.path: each for each in _lists(table, (), where)}


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
