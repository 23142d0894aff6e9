"""What may be set on a strategy or a trait, read from its class."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mfd_flower.checks import Bounds, field_texts


@functools.lru_cache(maxsize=256)
def parameters_of(cls: type) -> Mapping[str, Mapping[str, Any]]:
    """Return what may be set on a class, in the order of its source.

    These are the fields of a dataclass, or of its `Options` if that is one; else the keywords of
    the constructor, but for `run`, which is given by whoever builds the object.

    Returns
    -------
    mapping
        By name, in JSON's types: ``type``, ``required``, ``default``, ``choices``, ``low``,
        ``open_low`` (`low` itself is refused), ``high``, ``text``; None where nothing is said. A
        field that is a dataclass itself has ``type`` "table", and these under ``options``.
    """
    for fields in (cls, getattr(cls, "Options", None)):
        if isinstance(fields, type) and dataclasses.is_dataclass(fields):
            return _of_fields(fields)
    texts = _docstring_texts(cls)
    found = {}
    for p in inspect.signature(cls).parameters.values():
        if p.name != "run" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            default = MISSING if p.default is p.empty else p.default
            found[p.name] = _described(p.annotation, default, Bounds(), texts.get(p.name))
    # No settings hold a function.
    return {name: each for name, each in found.items() if "Callable" not in each["type"]}


def rows(options: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    """Yield name, type, default, accepted values and text of each option."""
    for name, option in options.items():
        if "options" in option:
            yield from rows(option["options"], f"{table}{name}.")
            continue
        low, high, accepted = option["low"], option["high"], ""
        if option["choices"]:
            accepted = ", ".join(map(str, option["choices"]))
        elif low is not None:
            accepted = f"{'above' if option['open_low'] else 'from'} {low:g}"
            accepted += "" if high is None else f" to {high:g}"
        default = "" if option["required"] else str(option["default"])
        yield f"{table}{name}", option["type"], default, accepted, option["text"] or ""


def _of_fields(cls: type) -> dict[str, dict[str, Any]]:
    hints, texts = get_type_hints(cls, include_extras=True), field_texts(cls)
    found: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(cls):
        hint, text = hints[field.name], " ".join(texts.get(field.name, "").split()) or None
        if dataclasses.is_dataclass(hint):
            options = _of_fields(hint)  # type: ignore[arg-type]
            found[field.name] = {"type": "table", "text": text, "options": options}
        else:
            made = field.default_factory
            default = field.default if made is MISSING else made()
            found[field.name] = _described(hint, default, Bounds(**field.metadata), text)
    return found


def _docstring_texts(cls: type) -> dict[str, str]:
    """Return what the numpy docstring of a class says of each parameter of its constructor."""
    own = next(each for each in cls.__mro__ if "__init__" in vars(each))
    pattern = r"^Parameters\n-+\n(.*?)(\n\n\w[^\n]*\n-+\n|\Z)"
    section = re.search(pattern, inspect.getdoc(own) or "", re.M | re.S)
    parameters = section[1] if section else ""
    named = re.findall(r"^(\w[\w, ]*?) ?:.*\n((?:[ \n].*\n?)*)", parameters, re.M)
    return {name: " ".join(text.split()) for names, text in named for name in names.split(", ")}


def _described(hint: Any, default: Any, bounds: Bounds, text: str | None) -> dict[str, Any]:
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        bounds = next((mark for mark in marks if isinstance(mark, Bounds)), bounds)
    choices = list(get_args(hint)) if get_origin(hint) is Literal else None
    kind = type(choices[0]) if choices else hint
    words = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return {
        "type": "" if kind is inspect.Parameter.empty else re.sub(r"(\w+\.)+", "", words),
        "required": default is MISSING,
        "default": None if default is MISSING else _plain(default),
        "choices": choices,
        "low": bounds.low if math.isfinite(bounds.low) else None,
        "open_low": bounds.open_low,
        "high": bounds.high if math.isfinite(bounds.high) else None,
        "text": text,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
