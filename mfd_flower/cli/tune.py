"""The command that tunes the entries of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mfd_flower.checks import ConfigError
from mfd_flower.cli.measure import (
    CacheOption,
    How,
    JobsOption,
    LogOption,
    OverwriteOption,
    QuietOption,
    ResumeOption,
    watching,
)
from mfd_flower.cli.screen import ConfigPath, JsonOption, out_console, say
from mfd_flower.files import to_json

tune_app = typer.Typer()


@tune_app.command(
    epilog="Example: mfd tune experiments/smoke.toml --budget 3 --seeds 100,101 --out out/tuned"
)
def tune(
    config: ConfigPath,
    budget: Annotated[int, typer.Option(min=1, help="Settings of each entry and scenario.")],
    seeds: Annotated[str, typer.Option(help="Others than the comparison's: 100,101,102.")],
    out: Annotated[Path, typer.Option(help="Folder for all that was tried, and tuned.toml.")],
    objective: Annotated[
        Literal["kept-bytes", "accuracy"],
        typer.Option(help="Least wire to the target, or best accuracy at the end."),
    ] = "kept-bytes",
    scenario: Annotated[
        list[str] | None, typer.Option(help="Tune in this one alone; may be given several times.")
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 0,
    cache_gb: CacheOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    log_file: LogOption = None,
) -> None:
    """Try equally many settings of every entry of a comparison, and choose one in each scenario.

    Its `tune` tables say what may vary. Writes tuned.toml for mfd compare, and tuning.json.
    """
    from mfd_flower.tuning.tuner import TUNED, tune

    how = How(out, jobs, cache_gb, as_json, resume, overwrite, quiet, log_file)
    with watching(how) as options:
        made = tune(
            config,
            out,
            budget=budget,
            seeds=_numbers(seeds),
            objective=objective,
            scenarios=scenario or (),
            **options,
        )
    if as_json:
        print(to_json(made))
    elif not quiet:
        _show(made)
        say(f"settings: {out / TUNED}", out_console)
    lost = [f"{s['strategy']} ({s['scenario']})" for s in made["searches"] if s["chosen"] is None]
    if lost:
        say(f"mfd: every setting failed of: {', '.join(lost)}")
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        accepted = "whole numbers with commas between them"
        raise ConfigError("--seeds", text, accepted) from None


def _show(made: dict[str, Any]) -> None:
    from mfd_flower.report.tables import tuning_tables

    for table in tuning_tables(made):
        out_console.print(table)
    for search in made["searches"]:
        if search["tried"] < made["budget"]:
            said = f"{search['tried']} of {made['budget']} settings tried: there are no others"
            say(f"{search['strategy']} ({search['scenario']}): {said}")
