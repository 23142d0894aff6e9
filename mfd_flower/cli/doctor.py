"""The command that says what of the machine will be used."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from mfd_flower.cli.screen import JsonOption, out_console, say

doctor_app = typer.Typer()


@doctor_app.command(epilog="Example: mfd doctor --json")
def doctor(as_json: JsonOption = False) -> None:
    """Say what of this machine a run would use; status 1, and why, if no run would work."""
    from rich.markup import escape
    from rich.table import Table

    from mfd_flower.machine import checks

    made = checks()
    reasons = [f"{check.name}: {check.shown}: {check.note}" for check in made if check.stops]
    if as_json:
        rows = {check.name: asdict(check) for check in made}
        for row in rows.values():
            del row["name"], row["shown"]
        print(json.dumps({"works": not reasons, "reasons": reasons, "checks": rows}, indent=1))
    else:
        table = Table("", "what", "found", "note")
        for check in made:
            mark = "[red]no[/]" if check.stops else "[green]ok[/]"
            table.add_row(mark, *(escape(text) for text in (check.name, check.shown, check.note)))
        out_console.print(table)
    if reasons:
        say(f"mfd: no run would work here: {'; '.join(reasons)}")
        raise typer.Exit(1)
