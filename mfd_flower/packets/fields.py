"""Strict reads of values that a stranger wrote: one wrong field, one line that names it."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

MAX_JSON_CHARS = 1 << 22
"""No header that `Header` accepts is longer."""
MAX_JSON_COMMAS, MAX_JSON_BRACKETS = 1 << 17, 1 << 15
"""JSON of a few bytes a value becomes Python objects many times as large; these bound them."""
MAX_INT = 2**63 - 1
"""Flower's records carry whole numbers in 64 bits."""


class PacketError(ValueError):
    """A packet is refused; the message names the field and what is wrong with it, in one line."""


def show(value: object) -> str:
    """Return a short form of `value` on one line, whatever it is."""
    if isinstance(value, int) and abs(value) > 2**64:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | str):
        text = repr(value[:60] if isinstance(value, str) else value)
        return text if len(text) <= 60 else text[:57] + "..."
    return type(value).__name__


def whole(field: str, value: object, least: int = 0, most: int = MAX_INT) -> int:
    """Return a whole number between the bounds; a bool is none."""
    if type(value) is not int or not least <= value <= most:
        raise PacketError(f"{field} = {show(value)}: must be a whole number from {least} to {most}")
    return value


def number(field: str, value: Any, most: float = sys.float_info.max) -> float:
    """Return a finite number from 0 to `most` as float; a bool is none."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not 0 <= value <= most:
        upper = "" if most == sys.float_info.max else f" to {most:g}"
        raise PacketError(f"{field} = {show(value)}: must be a finite number from 0{upper}")
    # Adding zero turns -0.0, which is another spelling of the same number, into 0.0.
    return float(value) + 0.0


def text(field: str, value: object, pattern: str, accepted: str) -> str:
    """Return a string that matches `pattern` as a whole."""
    if type(value) is not str or not re.fullmatch(pattern, value):
        raise PacketError(f"{field} = {show(value)}: must be {accepted}")
    return value


def sequence(field: str, value: object, most: int) -> tuple[Any, ...]:
    """Return a list or tuple of at most `most` values as a tuple."""
    if not isinstance(value, list | tuple):
        raise PacketError(f"{field} = {show(value)}: must be a list")
    if len(value) > most:
        raise PacketError(f"{field}: {len(value)} values, at most {most} are accepted")
    return tuple(value)


def dump_json(value: object) -> str:
    """Return the one JSON text that stands for `value`: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load_json(field: str, content: str) -> dict[str, Any]:
    """Parse a JSON object of bounded size without duplicate keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise PacketError(f"{field}: key {show(twice)} is there twice")
        return found

    if len(content) > MAX_JSON_CHARS:
        raise PacketError(f"{field}: {len(content)} bytes, at most {MAX_JSON_CHARS} are accepted")
    brackets = content.count("[") + content.count("{")
    if content.count(",") > MAX_JSON_COMMAS or brackets > MAX_JSON_BRACKETS:
        raise PacketError(f"{field}: more values than any packet has")
    try:
        value = json.loads(content, object_pairs_hook=unique)
    except PacketError:
        raise
    except (ValueError, RecursionError) as error:
        raise PacketError(f"{field}: not JSON: {show(str(error))}") from None
    if not isinstance(value, dict):
        raise PacketError(f"{field}: must be a JSON object, not {show(value)}")
    return value
