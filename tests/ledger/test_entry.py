"""An entry has one text, and nothing else is read as one."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.ledger import Entry, LedgerError, key_of, parse_entry
from tests.ledger.walks import digest, example, resigned, texts

VERSION = example(10).entries[-1]
NO_TEXTS: list[Any] = [True, 1, 1.5, ["a"], {"a": 1}, " n0", "n0\n", "é", "a" * 300]
NO_COUNTS: list[Any] = [None, True, 1.0, "1", [], {}, -1, 2**63, 10**400]
NO_SHARES: list[Any] = [True, "0.5", -0.1, 1.1, math.nan, math.inf, 10**400]
HEX = "0" * 64
JUNK: dict[str, list[Any]] = {
    "protocol": [*NO_COUNTS, 0, 2],
    "kind": [*NO_TEXTS, None, "", "genesis", "join", "merge"],
    "model_id": [*NO_TEXTS, None, "", "a#b"],
    "walker": [*NO_TEXTS, None, "", "w#"],
    "place": [*NO_COUNTS, 0],
    "prev": [*NO_TEXTS, "", HEX[1:], "F" * 64],
    "author": [*NO_TEXTS, None, ""],
    "key": [*NO_TEXTS, None, "", "0" * 15, "F" * 16],
    "time_s": [None, True, "1", -1.0, math.nan, math.inf, 10**400],
    "hop": [*NO_COUNTS, 2**31],
    "samples": NO_COUNTS,
    "size_bytes": NO_COUNTS,
    "version": [*NO_TEXTS, "", HEX[1:]],
    "parents": [*NO_TEXTS[:2], [], [1], [HEX[1:]], [HEX, HEX], [HEX, "1" * 64, "2" * 64]],
    "accuracy_before": NO_SHARES,
    "accuracy_after": NO_SHARES,
    "subject": ["n1"],
    "subject_key": [HEX],
    "reason": ["no place for it"],
    "members": [{"n0": HEX}],
    "receiver": [*NO_TEXTS, "n1"],
    "receipt": [*NO_TEXTS, "0" * 128],
}


def respelled(name: str, value: object) -> str:
    """Return the version's text with one field set, spelled as an entry is."""
    body = json.loads(VERSION.body) | {name: value}
    signature = VERSION.signature
    compact = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return f'{{"entry":{compact},"signature":"{signature}"}}'


def test_every_field_is_tried() -> None:
    given = {part.name for part in dataclasses.fields(Entry) if part.init}
    assert {*JUNK, "signature"} == given


@pytest.mark.parametrize("name", JUNK)
def test_a_wrong_field_is_refused_in_one_line(name: str) -> None:
    for value in JUNK[name]:
        with pytest.raises(LedgerError) as caught:
            parse_entry(respelled(name, value))
        assert caught.value.reason == "malformed"
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["genesis", "version", "join", "leave", "refusal", "readmission"])
def test_every_kind_is_read_as_it_was_written(kind: str) -> None:
    (entry, *_) = [entry for entry in example(10).entries if entry.kind == kind]
    assert parse_entry(entry.text) == entry
    assert json.loads(entry.text)["entry"]["kind"] == kind


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"hop":9', '"hop": 9'),
        ('"hop":9', '"hop":9,"hop":9'),
        ('"hop":9', '"hop":9.0'),
        ('"hop":9', '"hop":09'),
        ('"time_s":22.5', '"time_s":22.50'),
        ('"time_s":22.5', '"time_s":2.25e1'),
        ('"n1"', '"n\\u0031"'),
        ('{"accuracy_after"', '{"zzz":1,"accuracy_after"'),
        ('"hop":9', '"hop":9,"reason":""'),
        ('"hop":9', '"hop":9,"members":{}'),
        ('"hop":9', '"hop":9,"accuracy_before":null'),
        ('"hop":9', '"hop":9,"signature":""'),
        ('"parents":[', '"parents":[],"parents":['),
        ('"hop":9,', ""),
        ('{"entry"', ' {"entry"'),
        ('"signature":"', '"signature": "'),
        ('{"entry":{', '{"entry":' + "[" * 50_000),
        ('"hop":9', '"hop":' + "9" * 5000),
        ('"hop":9', '"hop":NaN'),
        ('"hop":9', '"hop":"\ud800"'),
    ],
)
def test_an_entry_has_one_spelling(old: str, new: str) -> None:
    assert VERSION.text.count(old) == 1
    with pytest.raises(LedgerError) as caught:
        parse_entry(VERSION.text.replace(old, new))
    assert caught.value.reason == "malformed"


def test_a_whole_number_where_a_fraction_belongs_is_another_spelling() -> None:
    text = resigned(VERSION, time_s=30.0).text
    assert parse_entry(text).time_s == 30.0
    for other in ("30", "30.00"):
        with pytest.raises(LedgerError, match="spelled"):
            parse_entry(text.replace('"time_s":30.0', f'"time_s":{other}'))


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
@settings(max_examples=200, deadline=None)
def test_junk_is_refused(junk: str) -> None:
    for text in (junk, f'{{"entry":{junk},"signature":"{"0" * 128}"}}'):
        with pytest.raises(LedgerError):
            parse_entry(text)


def test_an_entry_is_small() -> None:
    """Its bytes are billed at every hop."""
    assert max(len(text) for text in texts(example(30))[1:]) < 750


def test_signing_is_deterministic() -> None:
    """Pinned: a simulation's ledger is the same on every machine and in every release."""
    assert example(10).entries[-1].hash == digest(VERSION.text)
    assert key_of(0, "n0").sign(b"") == key_of(0, "n0").sign(b"")
    assert VERSION.key == example(2).entries[1].key
