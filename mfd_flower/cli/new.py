"""Commands that write the file with which a strategy or trait of one's own begins."""

from __future__ import annotations

from typing import Annotated

import typer

from mfd_flower.cli.screen import out_console, say

new_app = typer.Typer()

NameArgument = Annotated[str, typer.Argument(help="As in TOML: small letters, digits, hyphens.")]


@new_app.command("new-strategy", epilog="Example: mfd new-strategy half-avg")
def new_strategy(name: NameArgument) -> None:
    """Write ./strategies/NAME.py, which trains as written, and its test in ./tests."""
    _write("strategy", name)
    say(f"mfd run {name} --config experiments/smoke.toml --out out/{name}", out_console)


@new_app.command("new-trait", epilog="Example: mfd new-trait short-steps")
def new_trait(name: NameArgument) -> None:
    """Write ./traits/NAME.py, which works as written, and its test in ./tests."""
    _write("trait", name)
    say(f"In a config, below an entry's [strategies.options]: traits.{name} = {{}}", out_console)


def _write(kind: str, name: str) -> None:
    from mfd_flower.starter import write_start

    for path in write_start(kind, name):
        say(f"{path}", out_console)
    say(f"python -m pytest {path}", out_console)
