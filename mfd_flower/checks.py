"""Checks of what somebody else wrote, said once: settings, options, headers, adverts, entries.

A frozen dataclass declares what its fields accept: by type, by `bounded`, or by a mark in
`Annotated` (`Bounds` of a number, `Form` of a text, `Length` of a list or table). `build` makes one
from a mapping of unknown origin, `check_fields` checks one that is just being made. What is not
accepted is refused in one line that says which field has which value and what is accepted; which
error that is, the caller says. A field's default is always accepted.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

Refusal = Callable[[str, object, str], Exception]
"""Makes the error for a field's name, its value and what is accepted."""
MAX_INT = 2**63 - 1
"""TOML, SQLite and Flower's records carry whole numbers in 64 bits."""
SHOWN_CHARS = 200
LINE_CHARS = 2_000
"""Of a message; names from a file may be as long as the file."""


class ConfigError(ValueError):
    """Bad input, said in one line: what was given where, and what is accepted."""

    def __init__(self, name: str, value: object, accepted: str) -> None:
        # All three, so that it can be pickled on its way from a process of `runtime.pool`.
        super().__init__(name, value, accepted)

    def __str__(self) -> str:
        return refusal_line(*self.args)


def refusal_line(name: str, value: object, accepted: str) -> str:
    """Return the one line that refuses a value."""
    return one_line(f"{name} = {show(value)}: {accepted}")


def one_line(text: str) -> str:
    """Return a text whose line breaks and other controls, which a name may have, are spelt out."""
    cut = text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def show(value: object) -> str:
    """Return a short form of `value` on one line, whatever it is."""
    if isinstance(value, int) and abs(value) > 2**64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | bytes | list | tuple | dict) and len(value) > SHOWN_CHARS:
        return f"{type(value).__name__} of length {len(value)}"
    try:
        text = repr(value).replace("\n", " ")
    except (ValueError, RecursionError):  # What is in it is too large a number, or too deep.
        return type(value).__name__
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


@dataclass(frozen=True)
class Bounds:
    """A number is finite and lies in [low, high], or in (low, high] if `open_low`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def whole(self, name: str, value: Any, error: Refusal = ConfigError) -> int:
        """Return a whole number that lies so, or refuse it; true and false are none."""
        if type(value) is not int:
            raise error(name, value, "must be a whole number")
        if not self.low <= value <= self.high:
            raise error(name, value, self._words(value))
        return value

    def number(self, name: str, value: Any, error: Refusal = ConfigError) -> float:
        """Return a number that lies so as float, or refuse it; true and false are none."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise error(name, value, "must be a number")
        try:
            # Adding zero turns -0.0, which is another spelling of the same number, into 0.0.
            found = float(value) + 0.0
        except OverflowError:
            found = math.inf if value > 0 else -math.inf
        low = self.low < value if self.open_low else self.low <= value
        if not low or not value <= self.high or math.isinf(found):
            raise error(name, found, self._words(found))
        return found

    def _words(self, value: float) -> str:
        words = [] if isinstance(value, int) or math.isfinite(value) else ["finite"]
        if self.low > -math.inf:
            words.append(f"{'above' if self.open_low else 'at least'} {_digits(self.low)}")
        if self.high < math.inf and not value <= MAX_INT == self.high:
            words.append(f"at most {_digits(self.high)}")
        return f"must be {' and '.join(words)}"


@dataclass(frozen=True)
class Form:
    """A text matches `pattern` as a whole; `words` say the same."""

    pattern: str
    words: str

    @cached_property
    def _fits(self) -> Callable[[str], object]:
        return re.compile(self.pattern).fullmatch

    def check(self, name: str, value: Any, error: Refusal = ConfigError) -> str:
        """Return a text of this form, or refuse it."""
        if type(value) is not str or not self._fits(value):
            raise error(name, value, f"must be {self.words}")
        return value


@dataclass(frozen=True)
class Length:
    """A list or table has from `least` to `most` values."""

    most: float = math.inf
    least: int = 0

    def check(self, name: str, value: Any, error: Refusal) -> None:
        """Refuse a list or table of another length."""
        if not self.least <= len(value) <= self.most:
            most = f"{self.least} to {self.most}" if self.least else f"at most {self.most}"
            raise error(name, value, f"must have {most} values")


def bounded(default: float, low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    """Declare a number field that must lie in [low, high], or (low, high] when `open_low`."""
    return field(default=default, metadata={"low": low, "high": high, "open_low": open_low})


def build(cls: type, values: object, where: str = "", error: Refusal = ConfigError) -> Any:
    """Build dataclass `cls` from a mapping of field names to values, checking all of them.

    Fields that are dataclasses themselves are tables. `where` stands before a field's name in an
    error, ``options.`` for instance.
    """
    rules, found = _fields(cls), check_names(cls, values, where, error)
    return cls(**{key: rules[key].taken(where + key, found[key], error) for key in found})


def check_names(
    cls: type, values: object, where: str = "", error: Refusal = ConfigError
) -> Mapping[str, Any]:
    """Return `values`, which must map names of fields of `cls`, all required ones among them."""
    if not isinstance(values, Mapping):
        raise error(where.rstrip(".") or cls.__name__, values, "a table")
    rules = _fields(cls)
    if strange := [key for key in values if key not in rules]:
        accepted = f"unknown key; accepted: {', '.join(rules) or 'none'}"
        raise error(_joined(where, strange[0]), values[strange[0]], accepted)
    for name, (_, default) in rules.items():
        if default is dataclasses.MISSING and name not in values:
            raise error(where + name, None, "missing")
    return values


def check_fields(cls: type, instance: Any, error: Refusal) -> dict[str, Any]:
    """Check the fields that `cls` declares of an instance, from its ``__post_init__``.

    Lists become tuples, whole numbers floats where a field is one, tables dicts in sorted order.
    Returns those that do not have their default value, as `filled` does.
    """
    values, given = instance.__dict__, {}
    for name, (check, default) in _fields(cls).items():
        value = values[name]
        if value is not default and (type(value) is not type(default) or value != default):
            values[name] = value = check(name, value, error)
            if value != default:
                given[name] = value
    return given


def filled(cls: type, instance: Any) -> dict[str, Any]:
    """Return the fields that `cls` declares, without those that have their default value."""
    return {
        name: value
        for name, (_, default) in _fields(cls).items()
        if (value := getattr(instance, name)) is not default and value != default
    }


def checked(
    name: str, value: Any, kind: Any, limits: Mapping[str, Any] = {}, error: Refusal = ConfigError
) -> Any:
    """Return a value of the type and within the bounds that its field declares, or refuse it."""
    return _rule(kind, Bounds(**limits))(name, value, error)


def field_texts(cls: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, as its source has it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for pair in pairwise(body.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(text)):
                texts[name] = inspect.cleandoc(str(text))
    return texts


Check = Callable[[str, Any, Refusal], Any]
"""Takes a name, a value and what makes the error; returns the value in its plain form."""


class _Rule(NamedTuple):
    """What one field accepts."""

    check: Check
    default: Any

    def taken(self, name: str, value: Any, error: Refusal) -> Any:
        if type(value) is type(self.default) and value == self.default:
            return value
        return self.check(name, value, error)


@cache
def _fields(cls: type) -> dict[str, _Rule]:
    hints, rules = get_type_hints(cls, include_extras=True), {}
    for part in filter(lambda part: part.init, dataclasses.fields(cls)):
        make = part.default_factory
        default = part.default if make is dataclasses.MISSING else make()
        rules[part.name] = _Rule(_rule(hints[part.name], Bounds(**part.metadata)), default)
    return rules


@cache
def _rule(kind: Any, bounds: Bounds = Bounds(), length: Length = Length()) -> Check:
    """Return the check that a type stands for."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner, mark = parts
        if isinstance(mark, Form):
            return mark.check
        return _rule(inner, mark) if isinstance(mark, Bounds) else _rule(inner, bounds, mark)
    if origin in (Union, UnionType):
        return partial(_either, [_rule(part, bounds) for part in parts])
    if origin is Literal:
        return partial(_choice, parts, f"accepted: {', '.join(map(str, parts))}")
    if origin is tuple:
        return partial(_list, _rule(parts[0]), length)
    if origin is Mapping:
        return partial(_table, _rule(parts[0]), _rule(parts[1]), length)
    if dataclasses.is_dataclass(kind):
        return partial(_nested, kind)  # type: ignore[arg-type]
    if kind is int:
        return Bounds(max(bounds.low, -MAX_INT - 1), min(bounds.high, MAX_INT)).whole
    if kind is float:
        return bounds.number
    if kind is str:
        return _text
    if kind is bool:
        return partial(_choice, (True, False), "must be true or false")
    if kind is type(None):
        return partial(_choice, (None,), "none")
    if kind is Any:
        return lambda name, value, error: value
    raise TypeError(f"{kind}: no check for fields of this type")


class _RefusedError(Exception):
    """One of several alternatives does not accept a value."""


def _either(checks: Sequence[Check], name: str, value: Any, error: Refusal) -> Any:
    refusals = []
    for check in checks:
        try:
            return check(name, value, _RefusedError)
        except _RefusedError as refused:
            refusals.append(refused.args)
    # An alternative that looked further, into a list or table, is the one that was meant.
    if further := [refusal for refusal in refusals if refusal[0] != name]:
        raise error(*further[0])
    first, *others = (accepted for _, _, accepted in refusals)
    raise error(name, value, " or ".join([first, *(o.removeprefix("must be ") for o in others)]))


def _text(name: str, value: Any, error: Refusal) -> str:
    found = Form(r"[\s\S]*", "a string").check(name, value, error)
    # Half a pair is no character: neither a file nor a terminal takes it.
    return Form(r"[^\ud800-\udfff]*", "text without lone surrogates").check(name, found, error)


def _choice(choices: Sequence[Any], words: str, name: str, value: Any, error: Refusal) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise error(name, value, words)
    return value


def _list(item: Check, length: Length, name: str, value: Any, error: Refusal) -> Any:
    if not isinstance(value, list | tuple):
        raise error(name, value, "must be a list")
    length.check(name, value, error)
    return tuple([item(f"{name}[{i}]", each, error) for i, each in enumerate(value)])


def _table(key: Check, item: Check, length: Length, name: str, value: Any, error: Refusal) -> Any:
    if not isinstance(value, Mapping):
        raise error(name, value, "must be a table")
    length.check(name, value, error)
    found = {}
    for k, v in value.items():
        found[key(name, k, error)] = item(_joined(f"{name}.", k), v, error)
    return dict(sorted(found.items()))


def _nested(cls: type, name: str, value: Any, error: Refusal) -> Any:
    return value if isinstance(value, cls) else build(cls, value, name + ".", error)


def _joined(where: str, key: object) -> str:
    """Return the name of a key in a table, on one line whatever the key is."""
    plain = isinstance(key, str) and key.isprintable() and 0 < len(key) <= SHOWN_CHARS
    return f"{where}{key if plain else show(key)}"


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
