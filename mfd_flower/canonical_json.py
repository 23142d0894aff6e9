"""JSON as it goes over a wire or is signed: one value has one text, and what is read is bounded."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from mfd_flower.checks import ConfigError, Refusal

MAX_JSON_CHARS = 1 << 22
MAX_JSON_COMMAS, MAX_JSON_BRACKETS = 1 << 17, 1 << 15
"""JSON of a few bytes a value becomes Python objects many times as large; these bound them."""
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def dump_json(value: object) -> str:
    """Return the one JSON text that stands for `value`: sorted keys, no spaces, ASCII."""
    return ENCODER.encode(value)


def load_json(
    name: str, content: str, error: Refusal = ConfigError, most_chars: int = MAX_JSON_CHARS
) -> dict[str, Any]:
    """Return the JSON object that a text of unknown origin stands for, or refuse it.

    No key is there twice, and the work is linear in the length of the text. Texts longer than
    `most_chars` are refused unread; the error is made of `name`, see `checks`.
    """
    return _load(name, content, error, most_chars, dict)


def load_json_list(name: str, content: str, error: Refusal = ConfigError) -> list[Any]:
    """Return the JSON list that a text stands for, or refuse it as `load_json` does."""
    return _load(name, content, error, MAX_JSON_CHARS, list)


def _load(name: str, content: str, error: Refusal, most_chars: int, kind: type) -> Any:
    if len(content) > most_chars:
        raise error(name, content, f"at most {most_chars} characters are accepted")
    if len(content) > MAX_JSON_BRACKETS:
        brackets = content.count("[") + content.count("{")
        if content.count(",") > MAX_JSON_COMMAS or brackets > MAX_JSON_BRACKETS:
            raise error(name, content, "more values than are accepted")
    try:
        value = DECODER.decode(content)
    except DoubledKeyError as problem:
        raise error(name, problem.args[0], "this key is there twice") from None
    except (ValueError, RecursionError) as problem:
        raise error(name, content, f"not JSON ({problem})") from None
    if not isinstance(value, kind):
        raise error(name, value, f"must be a JSON {'object' if kind is dict else 'list'}")
    return value


class DoubledKeyError(Exception):
    """A key is there twice in one object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DoubledKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)
