"""What the commands print on, and the options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out_console = Console()
if not out_console.is_terminal:
    # In a pipe rich assumes 80 columns, which is too few for the tables.
    out_console = Console(width=120)
err_console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ConfigPath = Annotated[Path, typer.Argument(help="Comparison, a TOML file.")]


def say(line: str, console: Console = err_console) -> None:
    """Print a line as it is, however long."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
