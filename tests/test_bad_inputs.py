"""Bad input is one line that names field, value and what is accepted; status 2; nothing is left.

The inputs and the lines are in `bad_inputs.toml`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mfd_flower import cli

LIST = Path(__file__).with_name("bad_inputs.toml")
CONFIG = """
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[model]
tune = "head"
[[strategies]]
strategy = "fedavg"
rounds = 1
"""
FILES = {
    "good.toml": CONFIG.encode(),
    "vary.toml": f"{CONFIG}tune.rounds = [1, 2]".encode(),
    "deep.toml": b"x = " + 2000 * b"[" + 2000 * b"]",
    "latin.toml": b'name = "\xe9"',
    "file": b"mine",
    "nobody.csv": b"file,label\na.png,1\nb.png,\n",
    "minus.csv": b"file,label\na.png,-1\nb.png,2\n",
    "columns.csv": b"picture,label\na.png,1\n",
    "one/a.png": b"",
    "empty/.keep": b"",
    "half/results.json": b'{"schema": 2',
    "old/results.json": b'{"schema": 1, "runs": []}',
    "list/results.json": b'{"schema": 2, "config": 3, "machine": {}, "runs": []}',
    "empty.safetensors": b"",
    "text.sqlite": b"mine",
    "broken/strategies/bad.py": b"x = (",
}
CASES: list[dict[str, Any]] = tomllib.loads(LIST.read_text(encoding="utf-8")).get("case", [])


def words_of(case: dict[str, Any], folder: Path) -> list[str]:
    """Lay the files into a folder, and return the command."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if "words" in case:
        return list(case["words"])
    old, new = case["change"]
    assert old in CONFIG
    (folder / "c.toml").write_text(CONFIG.replace(old, new), encoding="utf-8")
    return ["compare", "c.toml", "--out", "out"]


def said(words: list[str]) -> tuple[int, str, str]:
    """Run a command here; returns its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mfd", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
    return code, out.getvalue(), err.getvalue()


def left(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder; folders count as empty ones."""
    paths = folder.rglob("*")
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["prints"][:40])
def test_bad_input_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = words_of(case, tmp_path)
    before = left(tmp_path)
    assert said(words) == (2, "", f"mfd: {case['prints']}\n")
    assert left(tmp_path) == before


def test_there_are_as_many_kinds_as_are_claimed() -> None:
    assert len({case["prints"] for case in CASES}) >= 60


def record() -> None:
    """Write down what each command says now."""
    head = LIST.read_text(encoding="utf-8").partition("\n[[case]]")[0]
    parts = [head.rstrip() + "\n"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            words = words_of(case, Path(folder))
            before = left(Path(folder))
            code, out, err = said(words)
            clean = left(Path(folder)) == before
            os.chdir("/")
        key = "words" if "words" in case else "change"
        if (code, out, err.count("\n"), clean) != (2, "", 1, True):
            print(f"{case[key]}: status {code}, {out!r}, {err!r}, nothing left: {clean}")
        line = err.removeprefix("mfd: ").rstrip("\n")
        values = ", ".join(_quoted(word) for word in case[key])
        parts.append(f"[[case]]\n{key} = [{values}]\nprints = {_quoted(line)}\n")
    LIST.write_text("\n".join(parts), encoding="utf-8")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


if __name__ == "__main__":
    record()
