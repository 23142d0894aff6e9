"""The `mfd ledger` commands: verify, show, trace and export a ledger, and make a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mfd_flower.checks import ConfigError, filled
from mfd_flower.files import write_text
from mfd_flower.ledger.entry import Entry, LedgerError
from mfd_flower.ledger.keys import new_key, public_key, write_key
from mfd_flower.ledger.store import Ledger

ledger_app = typer.Typer(
    help="Verify and read a ledger of model versions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
PathArgument = Annotated[Path, typer.Argument(help="File of a ledger.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@ledger_app.command(epilog="Example: mfd ledger verify out/ledger.sqlite")
def verify(path: PathArgument, as_json: JsonOption = False) -> None:
    """Check every byte of every entry; status 1 and the first broken entry if one is."""
    with _open(path) as ledger:
        try:
            count = ledger.verify()
            found: dict[str, Any] = {"ok": True, "entries": count, "heads": ledger.heads}
            line = f"{path}: {count} entries in {len(ledger.heads)} chains, all as they were signed"
        except LedgerError as error:
            found = {"ok": False, "entry": error.entry, "reason": error.reason, "text": str(error)}
            line = f"{path}: broken ({error.reason}): {error}"
    print(json.dumps(found) if as_json else line)
    if not found["ok"]:
        raise typer.Exit(1)


@ledger_app.command(epilog="Example: mfd ledger show out/ledger.sqlite --limit 5")
def show(
    path: PathArgument,
    limit: Annotated[int, typer.Option(min=0, help="Newest entries; 0 is all.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest entries, the last one below; signatures are `verify`'s business."""
    with _open(path) as ledger:
        entries = _read(path, ledger)
    rows = list(enumerate(entries))[-limit:]
    table = Table("entry", "chain", "hop", "kind", "author", "what", "accuracy", "samples", "time")
    for number, entry in rows:
        about = " ".join(filter(None, [entry.version[:12], entry.subject, entry.reason]))
        who = (entry.chain, str(entry.hop), entry.kind, entry.author, about)
        how = (_accuracy(entry), str(entry.samples), f"{entry.time_s:.1f} s")
        table.add_row(str(number), *who, *how)
    _print(table, as_json, [{"entry": number, **_plain(entry)} for number, entry in rows])


@ledger_app.command(epilog="Example: mfd ledger trace out/ledger.sqlite 3fa9c1")
def trace(
    path: PathArgument,
    version: Annotated[str, typer.Argument(help="Version, or how it begins.")],
    as_json: JsonOption = False,
) -> None:
    """Follow a version back to the first one: who made it, from what, how good it was."""
    with _open(path) as ledger:
        known = {entry.version for entry in _read(path, ledger) if entry.version}
        matches = sorted(name for name in known if version and name.startswith(version))
        if len(matches) != 1:
            said = f"{len(matches)} versions in {path} begin so, must be 1"
            raise ConfigError("VERSION", version, said)
        entries = ledger.trace(matches[0])
    table = Table("version", "author", "hop", "accuracy", "samples", "merged with")
    for entry in entries:
        made = (entry.version[:12], entry.author, str(entry.hop))
        merged = "".join(parent[:12] for parent in entry.parents[1:])
        table.add_row(*made, _accuracy(entry), str(entry.samples), merged)
    _print(table, as_json, [_plain(entry) for entry in entries])


@ledger_app.command(epilog="Example: mfd ledger export out/ledger.sqlite --out out/ledger.jsonl")
def export(
    path: PathArgument,
    out: Annotated[Path | None, typer.Option(help="File; standard output without it.")] = None,
) -> None:
    """Write all entries as JSON lines, each exactly as it was signed."""
    with _open(path) as ledger:
        _read(path, ledger)
        lines = ledger.suffix()
    if out is None:
        print(lines, end="")
        return
    try:
        write_text(out, lines)
    except OSError as error:
        raise ConfigError("--out", str(out), error.strerror or "cannot be written") from None


@ledger_app.command(epilog="Example: mfd ledger keygen node.pem")
def keygen(path: Annotated[Path, typer.Argument(help="New file of the private key.")]) -> None:
    """Make a key pair: the private key goes to a file of mode 0600, the public one is printed."""
    key = new_key()
    try:
        write_key(path, key)
    except LedgerError as error:
        said = str(error).removeprefix(f"{path}: ")
        raise ConfigError("PATH", str(path), said) from None
    print(public_key(key))


def _open(path: Path) -> Ledger:
    if not path.is_file():
        raise ConfigError("PATH", str(path), "must be the file of a ledger")
    try:
        # SQLite takes an empty file for a new database; nobody asked for one here.
        if path.stat().st_size:
            return Ledger(path)
    except (LedgerError, OSError):
        pass
    raise ConfigError("PATH", str(path), "must be the file of a ledger, this is something else")


def _read(path: Path, ledger: Ledger) -> list[Entry]:
    try:
        return ledger.entries()
    except LedgerError as error:
        print(f"{path}: broken ({error.reason}): {error}")
        raise typer.Exit(1) from None


def _plain(entry: Entry) -> dict[str, Any]:
    return {"hash": entry.hash, **filled(Entry, entry)}


def _accuracy(entry: Entry) -> str:
    both = (entry.accuracy_before, entry.accuracy_after)
    return " -> ".join(f"{value:.3f}" for value in both if value is not None)


def _print(table: Table, as_json: bool, plain: list[dict[str, Any]]) -> None:
    if as_json:
        print(json.dumps(plain, indent=1))
        return
    console = Console()
    # In a pipe rich assumes 80 columns, which is too few for the table.
    (console if console.is_terminal else Console(width=140)).print(table)
