"""Labels as data sets have them, texts, whole numbers or truth values, become class indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError


def class_indices(
    values: Sequence[Any], row: Callable[[int], str], names: Sequence[str] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Give numbers to the classes that occur, in the order of their numbers or names.

    Parameters
    ----------
    values
        A label a sample. Texts that are all numbers are taken as numbers.
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


def _number(value: Any) -> Any:
    """Return a value as a number, or None for a text that is none."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    whole = isinstance(number, float) and number.is_integer()
    return int(number) if whole else number
