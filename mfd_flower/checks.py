"""Checks of what somebody else wrote, said once: settings, options, records, headers.

A frozen dataclass declares names, types, choices and bounds of its fields; `build` makes one from a
mapping of unknown origin, or says in one line which field has which value and what is accepted.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Union, get_args, get_origin, get_type_hints

Refusal = Callable[[str, object, str], Exception]
"""Makes the error for a field's name, its value and what is accepted."""
SHOWN_CHARS = 200


class ConfigError(ValueError):
    """Bad input, said in one line: what was given where, and what is accepted."""

    def __init__(self, name: str, value: object, accepted: str) -> None:
        super().__init__(f"{name} = {show(value)}: {accepted}")


def show(value: object) -> str:
    """Return a short form of `value` on one line, whatever it is."""
    if isinstance(value, int) and abs(value) > 2**64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | bytes | list | tuple | dict) and len(value) > SHOWN_CHARS:
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


def bounded(default: float, low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    """Declare a number field that must lie in [low, high], or (low, high] when `open_low`."""
    return field(default=default, metadata={"low": low, "high": high, "open_low": open_low})


def build(cls: type[Any], values: object, where: str = "", error: Refusal = ConfigError) -> Any:
    """Build dataclass `cls`, checking names, types, choices and bounds.

    Parameters
    ----------
    cls : type
        A dataclass; fields that are dataclasses themselves are tables.
    values : object
        A mapping of field names to values, in part or whole.
    where : str
        What stands before a field's name in an error, ``options.`` for instance.
    error : callable
        Makes the error.
    """
    if not isinstance(values, Mapping):
        raise error(where.rstrip("."), values, "a table")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kwargs: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in fields:
            raise error(name, value, f"unknown key; accepted: {', '.join(fields) or 'none'}")
        if dataclasses.is_dataclass(hints[key]):
            kwargs[key] = build(hints[key], value, name + ".", error)
        else:
            kwargs[key] = checked(name, value, hints[key], fields[key].metadata, error)
    return cls(**kwargs)


def checked(
    name: str,
    value: Any,
    kind: Any,
    limits: Mapping[str, Any] = {},
    error: Refusal = ConfigError,
) -> Any:
    """Return a value of the type and within the bounds that its field declares, or refuse it."""
    or_list = ""
    if get_origin(kind) is Union:
        # A choice of words, or a list.
        or_list, listed = " or a list", isinstance(value, list | tuple)
        kind = next(part for part in get_args(kind) if (get_origin(part) is tuple) == listed)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise error(name, value, "must be a list")
        (one, _) = get_args(kind)
        return tuple(checked(f"{name}[{i}]", item, one, {}, error) for i, item in enumerate(value))
    if choices := get_args(kind):
        if value not in choices:
            raise error(name, value, f"accepted: {', '.join(choices)}{or_list}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise error(name, value, f"must be {words[kind]}")
    if limits:
        low, high, open_low = limits["low"], limits["high"], limits["open_low"]
        if not (low < value if open_low else low <= value) or not value <= high:
            over = f"{'above' if open_low else 'at least'} {low:g}"
            under = f" and at most {high:g}" if math.isfinite(high) else ""
            raise error(name, value, f"must be {over}{under}")
    return value


def field_texts(cls: type[Any]) -> dict[str, str]:
    """Return the text under each field of a dataclass, as its source has it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for named, text in zip(body.body, body.body[1:], strict=False):
        if not isinstance(named, ast.AnnAssign) or not isinstance(named.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[named.target.id] = inspect.cleandoc(str(text.value.value))
    return texts
