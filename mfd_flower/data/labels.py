"""Labels as data sets have them, texts, whole numbers or truth values, become class indices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError

MOST_DIGITS = 300
"""Of a label that is taken as a number; a float has no more."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_FLOAT = re.compile(r"-?([0-9]+\.[0-9]*|nan|inf)", re.IGNORECASE)


def class_indices(
    values: Sequence[Any], row: Callable[[int], str], names: Sequence[str] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Give numbers to the classes that occur, in the order of their numbers or names.

    Parameters
    ----------
    values
        A label a sample. Texts that are all numbers, as numbers are written, are taken as numbers;
        007 is a text.
    row
        Names a sample in an error.
    names
        Names of the classes, where the values are indices of them already.

    Returns
    -------
    labels
        ``(samples,)``, indices into the classes.
    classes
        Their names.

    Raises
    ------
    ConfigError
        For the first label that is missing, negative or not whole.
    """

    def refused(index: int, accepted: str) -> ConfigError:
        return ConfigError(f"{row(index)}: label", values[index], accepted)

    for index, value in enumerate(values):
        if value is None or value == "" or value != value:  # As NaN alone is.
            raise refused(index, "missing")
        if not isinstance(value, str | int | float):
            raise refused(index, "must be a text, a whole number, or true or false")
    found = [_number(value) for value in values]
    if None in found:
        found = [str(value) for value in values]
    elif not all(isinstance(value, bool) for value in values):
        high = len(names) - 1 if names else math.inf
        for index, value in enumerate(found):
            if not 0 <= value <= high or not float(value).is_integer():
                most = f" to {high}" if names else ""
                raise refused(index, f"must be a whole number from 0{most}")
    if names:
        return np.array(found, dtype=np.int64), tuple(names)
    kinds = sorted(set(found))
    place = {kind: index for index, kind in enumerate(kinds)}
    return np.array([place[value] for value in found], dtype=np.int64), tuple(map(str, kinds))


def by_number(name: str) -> tuple[int, int, str]:
    """Return what sorts names: numbers in the order of numbers, then the others by letters."""
    # As numbers compare, without making one of a name of thousands of digits.
    return (0, len(name), name) if is_number(name) else (1, 0, name)


def is_number(name: str) -> bool:
    """Whether a name is a whole number from 0 as numbers are written."""
    return _WHOLE.fullmatch(name) is not None and not name.startswith("-")


def _number(value: Any) -> Any:
    """Return a value as a number, or None for a text that is none."""
    if isinstance(value, str):
        short = len(value) <= MOST_DIGITS
        if short and _WHOLE.fullmatch(value):
            return int(value)
        if not (short and _FLOAT.fullmatch(value)):
            return None
        # Where whole numbers are kept as floats, for want of some, a table has 9.0 for 9.
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
