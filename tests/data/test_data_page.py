"""What docs/data.md shows works as written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mfd_flower import cli

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_runs_as_written_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = re.findall(r"^```(python|toml)\n(.*?)^```|^ {4}mfd (.*?)$", PAGE, re.DOTALL | re.M)
    printed = []
    for language, code, command in steps:
        if language == "python":
            exec(code, {"__name__": "__main__"})
        elif language == "toml":
            (tmp_path / "own.toml").write_text(code)
        else:
            monkeypatch.setattr(sys, "argv", ["mfd", *command.split()])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            said = capsys.readouterr()
            assert not ended.value.code, (command, said.err)
            printed.append((command, said.out, said.err))
    kinds = [command.split(":")[0] for command, _, _ in printed]
    assert kinds == ["data folder", "compare own.toml --out out/own", "data csv", "data disk"]
    folder, compared, table, _ = printed
    assert "n1 ben" in folder[1]
    assert "n1 ben" in table[1]
    for _, _, err in (folder, compared, table):
        assert ": 1 of 121 pictures cannot be read: photos/disc/ben/broken.jpg" in err
    assert "mfd-walk" in compared[1]
