"""results.json is strict JSON of one schema, and is the same after it was read again."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower import cli
from mfd_flower.checks import ConfigError
from mfd_flower.files import to_json
from mfd_flower.report.page import write_report
from mfd_flower.results import VERSION, Results, reason_of
from tests.accounting.test_targets import curve, run
from tests.test_cli import call

MACHINE = {"cores": 2, "processor": "x86_64", "python": "3.11", "packages": {"torch": "2"}}


def refused(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(VALUES)
def test_what_is_no_number_becomes_null_and_all_else_stays(value: Any) -> None:
    def same(before: Any, after: Any) -> bool:
        if isinstance(before, float) and not math.isfinite(before):
            return after is None
        if isinstance(before, list):
            return len(before) == len(after) and all(map(same, before, after))
        if isinstance(before, dict):
            return before.keys() == after.keys() and all(same(before[k], after[k]) for k in before)
        return bool(before == after)

    assert same(value, json.loads(to_json(value), parse_constant=refused))


def test_a_run_that_diverged_is_kept_as_strict_json(tmp_path: Path) -> None:
    points = [{**point, "loss": loss} for point, loss in
              zip(curve([0.1, 0.2]), (math.nan, math.inf), strict=True)]  # fmt: skip
    results = Results(
        {"name": "x", "margin": 0.0, "metric": "accuracy"}, MACHINE, [run("fedavg", points)]
    )
    results.save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=refused)
    assert content["schema"] == 2
    assert [point["loss"] for point in content["runs"][0]["points"]] == [None, None]
    again = Results.load(tmp_path)
    assert again.summary == results.summary
    assert again.frame().loss.isna().all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "results.json is not JSON"),
        ("[]", "schema None, accepted: 2"),
        ('{"schema": 1, "config": {}, "runs": []}', "is of schema 1, accepted: 2; measure again"),
        ('{"schema": 99}', "is of schema 99"),
        ('{"schema": 2}', "damaged"),
        ('{"schema": 2, "config": {"margin": 0}, "machine": {}, "runs": [{}]}', "damaged"),
        ('{"schema": 2, "config": {"margin": 0}, "machine": {}, "runs": 5}', "damaged"),
    ],
)
def test_other_results_are_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        Results.load(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def damaged(*path: Any, value: Any = None) -> str:
    """Return good results of which one value is another, or missing if it is None."""
    found: dict[str, Any] = {
        "schema": 2,
        "config": {"name": "x", "margin": 0.0},
        "machine": MACHINE,
        "runs": [run("fedavg", curve([0.1, 0.2])) | {"sources": ["", "n0", "n1", "n2"]}],
    }
    found = json.loads(json.dumps(found))
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    if path and value is None:
        del place[path[-1]]
    elif path:
        place[path[-1]] = value
    return json.dumps(found)


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything that stands in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (key,)
        if isinstance(inner, dict | list):
            yield from ((key, *rest) for rest in places(inner))


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 10**400, 1e308, math.nan, math.inf, "x", "\ud800", [], {}, [[]], {"a": 1}],
    ids=lambda value: repr(value)[:9],
)
def test_whatever_stands_where_results_are_read_or_refused_in_one_line(
    tmp_path: Path, value: Any
) -> None:
    refusals: list[str] = []
    for path in places(json.loads(damaged())):
        (tmp_path / "results.json").write_text(damaged(*path, value=value))
        try:
            Results.load(tmp_path)
        except ConfigError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in line for line in refusals)


@pytest.mark.parametrize("name", ["peak_node_bytes", "joules", "macro_accuracy", "virtual_seconds"])
@pytest.mark.parametrize("value", ["much", [1], 10**400])
def test_what_only_a_report_shows_is_refused_there_in_one_line(
    tmp_path: Path, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(damaged("runs", 0, "points", 1, name, value=value))
    code, out, err = call(capsys, "report", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"DIR = '{tmp_path}': results.json is damaged" in err
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "content",
    [
        damaged("config", "name"),
        damaged("machine", "packages"),
        damaged("machine", "packages", value=3),
        damaged("runs", 0, "wall_seconds"),
        damaged("runs", 0, "visits", value=["x"]),
        damaged("runs", 0, "visits", value=[["n0"]]),
        damaged("runs", 0, "sources", value=["n03", "n0", "n1", "n2"]),
        damaged("runs", 0, "sources", value=["n9", "n0", "n1", "n2"]),
        damaged("runs", 0, "nodes", value=2_000_000),
        damaged("runs", 0, "nodes", value=0),
        damaged("runs", 0, "points", value=[]),
        damaged("runs", 0, "points", 0, "bytes"),
        damaged("runs", 0, "points", 0, "bytes", "wire", value=math.inf),
        damaged("runs", 0, "points", 0, "step", value="one"),
        damaged("runs", 0, "points", 0, "accuracy", value="high"),
        damaged("runs", 0, "versions", value=[{"hop": 1}]),
        damaged("runs", 0, "versions", value=[{**dict.fromkeys(VERSION, ""), "hop": "x"}]),
        "[" * 100_000,
        '{"schema": 2, "config": ' + 50_000 * '{"a":' + "1" + 50_001 * "}",
    ],
    ids=lambda content: content[-60:],
)
def test_damaged_results_are_one_line_and_leave_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "results.json").write_text(content)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(sys, "argv", ["mfd", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith(f"mfd: DIR = '{tmp_path}': results.json is")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(damaged())
    results = Results.load(tmp_path)
    write_report(tmp_path, results)
    assert (tmp_path / "report.html").is_file()
    (tmp_path / "other").mkdir()
    results.runs[0]["sources"] = ["nowhere"] * 4
    with pytest.raises(KeyError):
        write_report(tmp_path / "other", results)
    assert not any((tmp_path / "other").iterdir())


def test_a_reason_is_the_last_line_of_a_traceback() -> None:
    assert reason_of("Traceback:\n  File x\nValueError: no\n\n") == "ValueError: no"
    assert reason_of(RuntimeError()) == ""
