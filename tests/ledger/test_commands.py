"""`mfd ledger`: status 0 for a whole ledger, 1 for a broken one, bad input named in one line."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from mfd_flower.checks import ConfigError
from mfd_flower.ledger import Ledger, example_ledger, public_key
from mfd_flower.ledger.commands import ledger_app
from tests.ledger.walks import example, lines

ROOT = Path(__file__).parents[2]
WALK = example(12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    example_ledger(tmp_path / "ledger.sqlite", 12).close()
    return tmp_path / "ledger.sqlite"


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(ledger_app, [str(word) for word in words])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout


def break_entry(path: Path, number: int) -> None:
    with sqlite3.connect(path) as db:
        change = "UPDATE entries SET text = CAST(replace(text, '8192', '8193') AS BLOB)"
        db.execute(f"{change} WHERE number = ?", (number,))
    db.close()


def test_a_whole_ledger_is_status_0(path: Path) -> None:
    assert call("verify", path)[0] == 0
    code, out = call("verify", path, "--json")
    assert code == 0
    heads = {"example#w0": WALK.entries[-1].hash}
    assert json.loads(out) == {"ok": True, "entries": 12, "heads": heads}


def test_a_broken_one_is_status_1_with_the_first_broken_entry(path: Path) -> None:
    break_entry(path, 9)
    break_entry(path, 4)
    code, out = call("verify", path)
    assert code == 1
    assert out.count("\n") == 1
    assert "entry 4" in out
    code, out = call("verify", path, "--json")
    assert code == 1
    found = json.loads(out)
    assert (found["ok"], found["entry"], found["reason"]) == (False, 4, "altered")


@pytest.mark.parametrize("command", ["verify", "show", "export", "trace"])
def test_what_is_no_ledger_is_bad_input(tmp_path: Path, command: str) -> None:
    text, empty = tmp_path / "notes.txt", tmp_path / "empty"
    text.write_text("some notes, nothing else\n" * 40)
    empty.touch()
    for wrong in (text, empty, tmp_path, tmp_path / "none.sqlite"):
        with pytest.raises(ConfigError, match=r"^PATH = .*must be the file of a ledger") as caught:
            call(command, wrong, *(["ab"] if command == "trace" else []))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "none.sqlite").exists()
    assert empty.stat().st_size == 0


@pytest.mark.parametrize("limit", [1, 5, 12, 50, 0])
def test_show_lists_the_newest(path: Path, limit: int) -> None:
    code, out = call("show", path, "--json", "--limit", limit)
    shown = json.loads(out)
    expected = WALK.entries[-limit:]
    assert code == 0
    assert [row["hash"] for row in shown] == [entry.hash for entry in expected]
    assert shown[-1]["entry"] == 11
    assert shown[-1]["author"] == WALK.entries[-1].author


def test_tables_name_authors_and_accuracy(path: Path) -> None:
    code, out = call("show", path)
    assert code == 0
    assert all(kind in out for kind in ("genesis", "join", "refusal", "readmission", "leave"))
    newest = WALK.entries[-1]
    code, out = call("trace", path, newest.version[:10])
    assert code == 0
    assert newest.version[:12] in out
    assert f"{newest.accuracy_after:.3f}" in out


def test_trace_takes_the_beginning_of_a_version_if_only_one_begins_so(path: Path) -> None:
    newest = WALK.entries[-1].version
    code, out = call("trace", path, newest[:8], "--json")
    assert code == 0
    path_back = [row["version"] for row in json.loads(out)]
    assert path_back == [entry.version for entry in WALK.trace(newest)]
    assert path_back[-1] == WALK.entries[0].version
    for wrong in ("", "zz", newest + "0"):
        with pytest.raises(ConfigError, match="VERSION"):
            call("trace", path, wrong)


def test_an_export_makes_an_equal_ledger(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "ledger.jsonl"
    assert call("export", path) == (0, lines(*WALK.entries))
    assert call("export", path, "--out", out) == (0, "")
    with Ledger(tmp_path / "copy.sqlite") as copy:
        copy.receive(out.read_text())
        assert copy.entries() == WALK.entries
    with pytest.raises(ConfigError, match="--out"):
        call("export", path, "--out", tmp_path / "no" / "folder")


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_ledger_that_cannot_be_read_is_status_1(path: Path, command: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM entries WHERE number = 4")
    db.close()
    code, out = call(command, path)
    assert code == 1
    assert "entry 4" in out


def test_keygen_prints_the_public_half_only(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    code, out = call("keygen", path)
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    assert (code, out) == (0, public_key(key) + "\n")
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    for taken in (path, tmp_path / "no" / "folder.pem"):
        with pytest.raises(ConfigError, match="PATH"):
            call("keygen", taken)
    assert path.read_bytes() == before


def test_the_documentation_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(code, {})
    (making,) = re.findall(r'^    python -c "(.*)"$', page, flags=re.MULTILINE)
    exec(making, {})
    shown = re.findall(r"^    mfd ledger (.*)$", page, flags=re.MULTILINE)
    assert len(shown) == 5
    for words in shown:
        assert call(*words.split())[0] == 0
    reasons = set(re.findall(r"^\| (`.*?`) \|", page, flags=re.MULTILINE))
    named = {name for cell in reasons for name in re.findall(r"`([a-z-]+)`", cell)}
    source = "".join(file.read_text() for file in (ROOT / "mfd_flower" / "ledger").glob("*.py"))
    raised = set(re.findall(r'LedgerError\(\s*"([a-z-]+)"', source))
    assert raised <= named


def test_every_command_shows_an_example() -> None:
    commands = typer.main.get_command(ledger_app)
    assert {"verify", "show", "trace", "export", "keygen"} == set(commands.commands)  # type: ignore[attr-defined]
    for name in commands.commands:  # type: ignore[attr-defined]
        code, out = call(name, "--help")
        assert code == 0
        assert f"Example: mfd ledger {name}" in out
