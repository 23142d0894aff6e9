"""The experiments of a repository: comparisons in TOML, and scripts that measure something else."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path

EXPERIMENTS = Path("experiments")
ENTRY = "def main(arguments: list[str] | None = None)"
"""What a script has that can be run so: it takes ``--json FILE``."""


def comparisons() -> list[str]:
    """Return the names of comparisons in the folder where a command runs."""
    return [file.stem for file in EXPERIMENTS.glob("*.toml")]


def scripts() -> list[str]:
    """Return the names of its scripts, spelled as comparisons are."""
    found = (
        f
        for f in EXPERIMENTS.glob("*.py")
        if ENTRY in f.read_text(encoding="utf-8", errors="replace")
    )
    return [file.stem.replace("_", "-") for file in found]


def run_script(name: str, folder: Path, quiet: bool) -> None:
    """Run a script, which prints its tables and writes ``summary.json`` into a folder."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    script = importlib.import_module(f"experiments.{name.replace('-', '_')}")
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        script.main(["--json", str(folder / "summary.json")])
