"""Commands that run strategies and report what was measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from mfd_flower.checks import ConfigError
from mfd_flower.cli.experiments import EXPERIMENTS, comparisons, run_script, scripts
from mfd_flower.cli.screen import ConfigPath, JsonOption, err_console, out_console, say
from mfd_flower.comparison import Comparison, load_comparison
from mfd_flower.files import to_json
from mfd_flower.report.progress import Say
from mfd_flower.results import Results, reading, reason_of

measure_app = typer.Typer()

OutOption = Annotated[Path, typer.Option(help="Folder for results, models and report.")]
ResumeOption = Annotated[bool, typer.Option(help="Go on where an earlier start ended.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace other results in the folder.")]
JobsOption = Annotated[int, typer.Option(min=0, help="Runs at once; 0: one a core or accelerator.")]
CacheOption = Annotated[
    float | None, typer.Option(help="GB for features of frozen backbones; MFD_CACHE_GB, or 2.")
]
QuietOption = Annotated[bool, typer.Option(help="Print errors alone; --json still prints.")]
LogOption = Annotated[Path | None, typer.Option(help="Append progress with times to this file.")]


@dataclass(frozen=True)
class How:
    """How to run a comparison and to tell of it."""

    out: Path
    jobs: int
    cache_gb: float | None
    as_json: bool
    resume: bool
    overwrite: bool
    quiet: bool
    log_file: Path | None


@measure_app.command(epilog="Example: mfd compare experiments/compare.toml --out out/demo")
def compare(
    config: ConfigPath,
    out: OutOption,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 0,
    cache_gb: CacheOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    log_file: LogOption = None,
) -> None:
    """Run every strategy of a comparison on the same data and seeds, and report."""
    how = How(out, jobs, cache_gb, as_json, resume, overwrite, quiet, log_file)
    _measure(load_comparison(config), how)


@measure_app.command(
    epilog="Example: mfd run mfd-walk --config experiments/compare.toml --out out/walk"
)
def run(
    strategy: Annotated[str, typer.Argument(help="Short name or package.module:Class.")],
    config: Annotated[Path, typer.Option(help="Settings, a TOML file of a comparison.")],
    out: OutOption,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds or tours.")] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 0,
    cache_gb: CacheOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    log_file: LogOption = None,
) -> None:
    """Run one strategy on the data, scenarios and seeds of a config.

    Where the config lists the strategy, its first entry's settings are used.
    """
    how = How(out, jobs, cache_gb, as_json, resume, overwrite, quiet, log_file)
    _measure(load_comparison(config, strategy, rounds), how)


@measure_app.command(epilog="Example: mfd reproduce compare")
def reproduce(
    name: Annotated[str, typer.Argument(help="A file of experiments/, without its ending.")],
    out: Annotated[Path | None, typer.Option(help="Folder; out/NAME without it.")] = None,
    setting: Annotated[
        Literal["small", "full"], typer.Option(help="full: NAME-full, where there is one.")
    ] = "small",
    jobs: JobsOption = 0,
    cache_gb: CacheOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    log_file: LogOption = None,
) -> None:
    """Measure an experiment of this repository again; goes on where it was stopped.

    Of a comparison; a script of its own writes summary.json into the folder.
    """
    full = f"{name}-full" if setting == "full" else name
    folder = out or Path("out") / full
    how = How(folder, jobs, cache_gb, as_json, True, False, quiet, log_file)
    if (file := EXPERIMENTS / f"{full}.toml").is_file() and full in comparisons():
        _measure(load_comparison(file), how)
    elif name in scripts() and setting == "small":
        run_script(name, folder, quiet or as_json)
        if as_json:
            print((folder / "summary.json").read_text(encoding="utf-8"), end="")
    else:
        known = sorted({*comparisons(), *scripts()})
        accepted = f"accepted here: {', '.join(known) or 'nothing; no folder experiments'}"
        raise ConfigError("NAME", full, accepted)


@measure_app.command(epilog="Example: mfd report out/demo")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with results.json.")],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write tables, plots and report.html again from results.json."""
    results = Results.load(folder)
    with reading(folder):
        _report(folder, results, as_json, as_markdown)


def _measure(comparison: Comparison, how: How) -> None:
    from mfd_flower.runtime.compare import compare

    with watching(how) as options:
        results = compare(comparison, how.out, **options)
    if not how.quiet or how.as_json:
        _report(how.out, results, how.as_json)


@contextmanager
def watching(how: How) -> Iterator[dict[str, Any]]:
    """Yield the options of `compare` that follow from those of a command, and tell of its end."""
    from mfd_flower.data.pictures import hide_progress
    from mfd_flower.report.progress import watch

    screen = err_console
    if how.quiet:
        screen = Console(quiet=True)
        hide_progress()
    with _log(how.log_file) as log:
        try:
            yield {
                "jobs": how.jobs or None,
                "cache_gb": how.cache_gb,
                "resume": how.resume,
                "overwrite": how.overwrite,
                "watch": functools.partial(watch, screen, log),
            }
        except KeyboardInterrupt as stop:
            again = "the same command" if how.resume else "the same command with --resume"
            again += " instead of --overwrite" if how.overwrite else ""
            # Without words it came before anything ran.
            line = f"stopped; {stop}, {again} goes on" if str(stop) else "stopped; nothing ran yet"
            log(line)
            say(f"mfd: {line}")
            raise typer.Exit(130) from None
        except Exception as error:
            log(f"failed: {type(error).__name__}: {reason_of(error)}")
            raise
        log(f"done; results in {how.out}")


@contextmanager
def _log(path: Path | None) -> Iterator[Say]:
    """Append lines with the time to a file, if there is to be one."""
    if path is None:
        yield lambda line: None
        return
    try:
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        said = f"not writable ({error.strerror})"
        raise ConfigError("--log-file", str(path), said) from error
    with file:
        yield lambda line: print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", file=file)


def _report(folder: Path, results: Results, as_json: bool, as_markdown: bool = False) -> None:
    from mfd_flower.report.page import write_report
    from mfd_flower.report.tables import markdown, summary_tables

    page = write_report(folder, results)
    if as_json:
        print(to_json(results.summary))
    elif as_markdown:
        print(markdown(results.summary), end="")
    else:
        for table in summary_tables(results.summary):
            out_console.print(table)
        say(f"report: {page}", out_console)
