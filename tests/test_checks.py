"""Whatever is given, it is accepted as declared or refused in one line that says where and why."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower import canonical_json
from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import (
    MAX_INT,
    Bounds,
    ConfigError,
    Form,
    Length,
    bounded,
    build,
    check_fields,
    checked,
    filled,
    show,
)

Name = Annotated[str, Form(r"[a-z]{1,8}", "up to 8 small letters")]


@dataclass(frozen=True)
class Inner:
    depth: int = bounded(1, 1)
    word: Name = "a"


@dataclass(frozen=True)
class Outer:
    many: Annotated[tuple[Annotated[int, Bounds(0, 9)], ...], Length(3)]
    count: int = bounded(3, 1, 9)
    rate: float = bounded(0.5, 0.0, 1.0, open_low=True)
    free: float = 0.0
    until_s: float = bounded(math.inf, 0.0)
    whole: int = 0
    flag: bool = False
    text: str = ""
    mode: Literal["slow", "fast"] = "slow"
    either: Literal["even"] | tuple[int, ...] = "even"
    maybe: Annotated[float, Bounds(0.0)] | None = None
    inner: Inner = Inner()
    table: Annotated[Mapping[Name, float], Length(2, least=1)] = field(default_factory=dict)
    anything: Any = None


GOOD: dict[str, Any] = {
    "many": [1, 2], "count": 9, "rate": 1, "free": -1e300, "until_s": 5, "whole": -MAX_INT - 1,
    "flag": True, "text": "any\ntext", "mode": "fast", "either": [4], "maybe": 2,
    "inner": {"depth": MAX_INT, "word": "abc"}, "table": {"b": 1, "a": 2}, "anything": {"x": [1]},
}  # fmt: skip
BAD: list[tuple[str, Any, str, str]] = [
    ("many", 4, "many", "must be a list"),
    ("many", "12", "many", "must be a list"),
    ("many", [1, 2, 3, 4], "many", "must have at most 3 values"),
    ("many", [1, 10], "many[1]", "must be at least 0 and at most 9"),
    ("many", [True], "many[0]", "must be a whole number"),
    ("count", 0, "count", "must be at least 1 and at most 9"),
    ("count", True, "count", "must be a whole number"),
    ("count", 3.0, "count", "must be a whole number"),
    ("count", 10**5000, "count", "must be at least 1 and at most 9"),
    ("count", {}, "count", "must be a whole number"),
    ("rate", 0, "rate", "must be above 0 and at most 1"),
    ("rate", True, "rate", "must be a number"),
    ("rate", "0.5", "rate", "must be a number"),
    ("rate", math.nan, "rate", "must be finite and above 0 and at most 1"),
    ("free", math.inf, "free", "must be finite"),
    ("free", -math.inf, "free", "must be finite"),
    ("free", math.nan, "free", "must be finite"),
    ("free", 10**400, "free", "must be finite"),
    ("until_s", -1, "until_s", "must be at least 0"),
    ("until_s", math.nan, "until_s", "must be finite and at least 0"),
    ("whole", MAX_INT + 1, "whole", f"at most {MAX_INT}"),
    ("whole", -MAX_INT - 2, "whole", f"must be at least {-MAX_INT - 1}"),
    ("flag", 1, "flag", "must be true or false"),
    ("text", 1, "text", "must be a string"),
    ("text", ["a"], "text", "must be a string"),
    ("mode", "quick", "mode", "accepted: slow, fast"),
    ("mode", ["slow"], "mode", "accepted: slow, fast"),
    ("either", "odd", "either", "accepted: even or a list"),
    ("either", ["even"], "either[0]", "must be a whole number"),
    ("maybe", -1, "maybe", "must be at least 0 or none"),
    ("maybe", "x", "maybe", "must be a number or none"),
    ("inner", 5, "inner", "a table"),
    ("inner", [], "inner", "a table"),
    ("inner", {"depth": 0}, "inner.depth", "must be at least 1"),
    ("inner", {"depth": {}}, "inner.depth", "must be a whole number"),
    ("inner", {"width": 1}, "inner.width", "unknown key; accepted: depth, word"),
    ("inner", {"a\nb": 1}, "inner.'a\\nb'", "unknown key; accepted: depth, word"),
    ("inner", {"word": "ABC"}, "inner.word", "must be up to 8 small letters"),
    ("inner", {"word": "abc\n"}, "inner.word", "must be up to 8 small letters"),
    ("table", {"a": "x"}, "table.a", "must be a number"),
    ("table", {"A": 1}, "table", "must be up to 8 small letters"),
    ("table", [["a", 1]], "table", "must be a table"),
    ("table", {"a": 1, "b": 1, "c": 1}, "table", "must have 1 to 2 values"),
]

IDS = [f"{name} {number}" for number, (name, *_) in enumerate(BAD)]


def test_what_is_right_is_taken_in_its_plain_form() -> None:
    found = build(Outer, GOOD)
    assert found == Outer(
        (1, 2), 9, 1.0, -1e300, 5.0, -MAX_INT - 1, True, "any\ntext", "fast", (4,), 2.0,
        Inner(MAX_INT, "abc"), {"a": 2.0, "b": 1.0}, {"x": [1]},
    )  # fmt: skip
    assert list(found.table) == ["a", "b"]
    assert {type(found.rate), type(found.maybe), *map(type, found.table.values())} == {float}
    assert build(Outer, {"many": ()}) == Outer(())


@pytest.mark.parametrize(("name", "value", "where", "accepted"), BAD, ids=IDS)
def test_what_is_wrong_is_refused_in_one_line(
    name: str, value: object, where: str, accepted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, {**GOOD, name: value}, "options.")
    line = str(caught.value)
    assert line.startswith(f"options.{where} = ")
    assert line.endswith(accepted)
    assert "\n" not in line


def test_every_field_has_been_refused() -> None:
    assert {name for name, *_ in BAD} | {"anything"} == set(Outer.__dataclass_fields__)


@pytest.mark.parametrize("values", [None, 5, "x", ["many"], [("many", [])]])
def test_what_is_no_table_is_refused(values: object) -> None:
    for where, name in (("", "Outer"), ("options.", "options")):
        with pytest.raises(ConfigError, match=rf"^{name} = .*: a table$"):
            build(Outer, values, where)


def test_what_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^options\.many = None: missing$"):
        build(Outer, {}, "options.")
    with pytest.raises(ConfigError, match=r"^speed = 1: unknown key; accepted: many, count, rate"):
        build(Outer, {"speed": 1})
    with pytest.raises(ConfigError, match=r"^7 = 1: unknown key"):
        build(Outer, {7: 1})


def test_a_default_is_accepted_and_so_is_no_end() -> None:
    assert build(Outer, {"many": [], "until_s": math.inf}).until_s == math.inf
    with pytest.raises(ConfigError, match=r"until_s = -inf: must be finite"):
        build(Outer, {"many": [], "until_s": -math.inf})


def test_the_kind_of_error_is_the_callers() -> None:
    class OtherError(Exception):
        pass

    for name, value, where, accepted in BAD:
        with pytest.raises(OtherError) as caught:
            build(Outer, {**GOOD, name: value}, error=OtherError)
        assert caught.value.args[0] == where
        assert str(caught.value.args[2]).endswith(accepted)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(name=st.sampled_from(list(GOOD)), value=json_like)
def test_whatever_is_given_is_refused_in_one_line_or_as_declared(name: str, value: object) -> None:
    try:
        found = build(Outer, {**GOOD, name: value})
    except ConfigError as error:
        line = str(error)
        assert line.startswith(name)
        assert "\n" not in line
        return
    assert build(Outer, {**GOOD, name: getattr(found, name)}) == found


@dataclass(frozen=True)
class Checked:
    """Checked however it is made."""

    name: Name
    rate: Annotated[float, Bounds(0.0)] = 0.0
    parts: tuple[int, ...] = ()
    table: Mapping[Name, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(Checked, self, ConfigError)


def test_an_instance_is_checked_and_made_plain_as_it_is_made() -> None:
    made = Checked("a", 2, [1], {"b": 1, "a": 2})  # type: ignore[arg-type]
    assert (made.rate, made.parts, list(made.table)) == (2.0, (1,), ["a", "b"])
    assert type(made.rate) is float
    for wrong in (
        {"name": "A"},
        {"name": ""},
        {"rate": -1.0},
        {"parts": ["1"]},
        {"table": {"": 1}},
    ):
        with pytest.raises(ConfigError):
            Checked(**{"name": "a", **wrong})


@given(
    name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    rate=st.floats(0, 1e300),
    parts=st.lists(st.integers(-9, 9), max_size=3),
)
def test_what_is_filled_in_stands_for_the_whole(name: str, rate: float, parts: list[int]) -> None:
    made = Checked(name, rate, tuple(parts))
    said = filled(Checked, made)
    assert said.keys() <= {"name", "rate", "parts"}
    assert ("rate" in said, "parts" in said) == (rate != 0, bool(parts))
    assert build(Checked, load_json("text", dump_json(said))) == made


@pytest.mark.parametrize(
    ("check", "accepted"),
    [
        (lambda: Bounds(0, 4).whole("x", 5), "x = 5: must be at least 0 and at most 4"),
        (lambda: Bounds(0).whole("x", -1), "x = -1: must be at least 0"),
        (lambda: Bounds().whole("x", True), "x = True: must be a whole number"),
        (lambda: Bounds(0.0).number("x", -1), "x = -1.0: must be at least 0"),
        (lambda: Bounds().number("x", None), "x = None: must be a number"),
        (lambda: Form("[a-z]", "a letter").check("x", "ab"), "x = 'ab': must be a letter"),
        (lambda: checked("x", 0, int, {"low": 1, "high": 9, "open_low": False}), "at least 1"),
        (lambda: checked("x", "b", Literal["a"]), "x = 'b': accepted: a"),
    ],
)
def test_single_values_are_checked_alike(check: Callable[[], object], accepted: str) -> None:
    with pytest.raises(ConfigError, match=accepted):
        check()


def test_single_values_are_returned_plain() -> None:
    assert Bounds(0, 4).whole("x", 4) == 4
    assert type(Bounds().number("x", 2)) is float
    assert math.copysign(1, Bounds().number("x", -0.0)) == 1
    assert Bounds(high=2**53).number("x", 2**53) == 2**53
    with pytest.raises(ConfigError, match="at most 9007199254740992"):
        Bounds(high=2**53).number("x", 2**53 + 1)


class Verse:
    def __repr__(self) -> str:
        return "one\ntwo"


def test_whatever_is_shown_is_short_and_on_one_line() -> None:
    values = ["a\nb", 10**5000, [10**5000], "x" * 10_000, ["y"] * 10_000, "\ud800", Verse(), b"\n"]
    for value in values:
        assert "\n" not in show(value)
        assert len(show(value)) <= 200


def test_what_is_nested_deep_is_shown() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert show(deep) == "list"


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        ("", "not JSON"), ("[]", "must be a JSON object"), ("{} {}", "not JSON"),
        ('{"a":1,"a":2}', "x = 'a': this key is there twice"),
        ('{"b":[{"a":1},{"c":{"d":1,"d":1}}]}', "x = 'd': this key is there twice"),
        ('{"a":' + "9" * 5000 + "}", "not JSON"), ('{"a":' * 100_000, "more values"),
        ("[" * 30_000, "not JSON"), ('{"a":[' + "0," * 140_000 + "0]}", "more values"),
        (" " * (1 << 22) + "{}", "at most 4194304 characters"),
    ],
    ids=lambda value: value[:12],
)  # fmt: skip
def test_a_text_that_is_no_bounded_json_object_is_refused(content: str, accepted: str) -> None:
    with pytest.raises(ConfigError, match=accepted) as caught:
        load_json("x", content)
    assert "\n" not in str(caught.value)


class Counted(str):
    """A key that counts how often it is hashed, that is looked up or put into a table."""

    hashed = 0
    __slots__ = ()

    def __hash__(self) -> int:
        Counted.hashed += 1
        return super().__hash__()


def test_reading_keys_takes_work_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    """16,000 keys, the last of them there twice, once took 30 s to refuse."""
    unique = canonical_json._unique

    def counting(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return unique([(Counted(key), value) for key, value in pairs])

    decoder = canonical_json.json.JSONDecoder(object_pairs_hook=counting)
    monkeypatch.setattr(canonical_json, "DECODER", decoder)
    work = []
    for keys in (2_000, 4_000, 8_000):
        text = "{" + ",".join(f'"{number:x}":0' for number in [*range(keys), keys - 1]) + "}"
        Counted.hashed = 0
        with pytest.raises(ConfigError, match="twice"):
            load_json("x", text)
        work.append(Counted.hashed)
    assert work[0] >= 2_000
    assert work[1] < 2.1 * work[0]
    assert work[2] < 2.1 * work[1]


def test_checking_and_reading_a_ledger_load_neither_torch_nor_flower() -> None:
    code = (
        "import sys; import mfd_flower.checks, mfd_flower.names, mfd_flower.canonical_json,"
        " mfd_flower.ledger.commands; print({'torch', 'flwr'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
