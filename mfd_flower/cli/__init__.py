"""The `mfd` command."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings

# Before anything imports Flower: neither is asked of a command line tool.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import typer
from click.exceptions import Abort, UsageError

from mfd_flower.checks import ConfigError
from mfd_flower.cli.doctor import doctor_app
from mfd_flower.cli.log import log_app
from mfd_flower.cli.look import look_app
from mfd_flower.cli.measure import measure_app
from mfd_flower.cli.new import new_app
from mfd_flower.cli.screen import say
from mfd_flower.cli.serve import serve_app
from mfd_flower.cli.tune import tune_app
from mfd_flower.ledger.commands import ledger_app
from mfd_flower.results import reason_of

app = typer.Typer(
    help="Send the model to the data: run, compare and plan MFD walks and federated learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for part in (measure_app, tune_app, serve_app, look_app, log_app, new_app, doctor_app):
    app.add_typer(part)
app.add_typer(ledger_app, name="ledger")


def main() -> None:
    """Run the command; bad input is one line and exit status 2, a failed run is status 1."""
    warnings.filterwarnings("ignore")
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks is replaced, and not the end of the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Not by its level, which Flower sets when it is imported.
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.ERROR)
    try:
        sys.exit(app(prog_name="mfd", standalone_mode=False))
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "mfd"
        # Of a name that is nearly right click and typer make the same guess.
        said = re.sub(r"( Did you mean [^?]*\?)\1", r"\1", " ".join(error.format_message().split()))
        say(f"mfd: {said} See {where} --help")
        sys.exit(2)
    except ConfigError as error:
        say(f"mfd: {error}")
        sys.exit(2)
    except (KeyboardInterrupt, Abort):
        sys.exit(130)
    except Exception as error:
        say(f"mfd: failed: {type(error).__name__}: {reason_of(error)}")
        if os.environ.get("MFD_DEBUG"):
            raise
        sys.exit(1)
