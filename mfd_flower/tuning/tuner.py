"""Run the rungs of a tuning, each of them a comparison, and choose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_args

from mfd_flower.canonical_json import load_json
from mfd_flower.checks import ConfigError, checked
from mfd_flower.comparison import (
    Comparison,
    Tables,
    comparison_from_tables,
    named_tables,
    same_runs,
)
from mfd_flower.files import write_json, write_text
from mfd_flower.results import Results
from mfd_flower.runtime.compare import RunsFailedError, Watch, check, compare, held
from mfd_flower.runtime.pool import Hear
from mfd_flower.tuning.halving import Objective, Trial, by_search, going_on, measure
from mfd_flower.tuning.outcome import SCHEMA, command_line, outcome_of, tuned_toml
from mfd_flower.tuning.settings import comparison_of, in_scenarios, searches_of

TUNED, TUNING, FAILED = "tuned.toml", "tuning.json", "failed.json"
"""The comparison with the chosen settings; all settings; runs of a rung that failed, and why."""


def tune(
    config: Path | str | Tables,
    out: Path | str,
    *,
    budget: int,
    seeds: Sequence[int],
    objective: Objective = "kept-bytes",
    scenarios: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda comparison, done: nullcontext(lambda key, event: None),
    **keywords: Any,
) -> dict[str, Any]:
    """Try equally many settings of every entry of a comparison, and choose one in each scenario.

    Parameters
    ----------
    config
        A TOML file of a comparison with `tune` tables, see `mfd_flower.search_space`, or its
        tables.
    out
        Folder for ``tuning.json``, ``tuned.toml``, and the results of each rung.
    budget
        Settings of each entry in each scenario, its own among them; fewer where there are fewer.
    seeds
        One a rung, none of them a seed of the comparison. The first one draws the settings, too.
    objective
        What is better, see `mfd_flower.tuning.halving`.
    scenarios
        Names of those to tune in; all, unless given. ``tuned.toml`` has them alone.
    resume, overwrite, watch, keywords
        Of `mfd_flower.compare`. A rung that is over stays: what failed in it is not tried again.

    Returns
    -------
    dict
        The content of ``tuning.json``.

    Raises
    ------
    ConfigError
        For bad input, before anything runs or is written.
    RunsFailedError
        If all runs of a rung failed.
    """
    if resume and overwrite:
        raise ConfigError("--resume", resume, "accepted without --overwrite, which begins anew")
    default_name, tables = named_tables(config)
    comparison = comparison_from_tables(tables, default_name)
    if scenarios:
        tables = in_scenarios(tables, scenarios)
    _check_how(comparison, budget, seeds, objective)
    searches = searches_of(tables, budget, seeds[0])
    trials = [Trial(search, setting) for search in searches for setting in search.settings]
    # Settings are tried with the first seed, how data is dealt out with all of them.
    check(_rung(comparison, tables, trials, seeds[:1]))
    check(comparison_of(tables, tables["strategies"], seeds, comparison.name))
    how: dict[str, Any] = {"budget": budget, "seeds": [*seeds], "objective": objective}
    if scenarios:
        how["scenarios"] = [*scenarios]
    source = default_name if isinstance(config, Mapping) else str(config)
    told = {"name": comparison.name, "command": command_line(source, out, how), **how}
    folder = Path(out)
    with held(folder), _stopped(folder):
        if overwrite:
            _clear(folder)
        keywords |= {"resume": resume, "watch": watch}
        told["machine"] = _climb(comparison, tables, trials, folder, how, keywords)
        made = {"schema": SCHEMA, **told, **outcome_of(trials, objective)}
        write_json(folder / TUNING, made)
        write_text(folder / TUNED, tuned_toml(tables, trials, made))
    return made


def _check_how(
    comparison: Comparison, budget: int, seeds: Sequence[int], objective: Objective
) -> None:
    checked("--budget", budget, int, {"low": 1})
    for seed in seeds:
        checked("--seeds", seed, int, {"low": 0})
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("--seeds", [*seeds], "one or more whole numbers, each once")
    if shared := {run.config.seed for run in comparison.runs} & set(seeds):
        accepted = f"{min(shared)} is one of the comparison's table; accepted: others"
        raise ConfigError("--seeds", [*seeds], accepted)
    if objective not in get_args(Objective):
        raise ConfigError("--objective", objective, f"accepted: {', '.join(get_args(Objective))}")


def _climb(
    comparison: Comparison,
    tables: Tables,
    trials: Sequence[Trial],
    folder: Path,
    how: Mapping[str, Any],
    keywords: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Take the trials from rung to rung, each with fewer of them; returns the machine."""
    machine: Mapping[str, Any] = {}
    for rung, seed in enumerate(how["seeds"]):
        said = f"{len(trials)} settings on seed {seed}"
        watch = _telling(keywords["watch"], f"rung {rung}", said)
        compared = _rung(comparison, tables, trials, [seed])
        options = {**keywords, "watch": watch}
        results, failed = _run(compared, folder / f"rung-{rung}", options)
        machine = machine or results.machine
        _take(trials, results, failed, seed)
        measure(trials, how["seeds"][: rung + 1], comparison.margin, comparison.metric)
        groups = by_search(trials)
        trials = [each for group in groups for each in going_on(group, rung + 1, how["objective"])]
        if not trials:
            break
    return machine


def _rung(
    comparison: Comparison, tables: Tables, trials: Sequence[Trial], seeds: Sequence[int]
) -> Comparison:
    entries = [trial.setting.entry for trial in trials]
    return comparison_of(tables, entries, seeds, comparison.name)


def _run(
    comparison: Comparison, folder: Path, options: Mapping[str, Any]
) -> tuple[Results, Mapping[str, str]]:
    """Do the runs of a rung, or read them if it is over; returns also what failed, by key."""
    if (folder / FAILED).exists():
        results = Results.load(folder)
        if not same_runs(results.config, comparison.describe()):
            reason = "holds results of another comparison; --overwrite replaces them"
            raise ConfigError("--out", str(folder), reason)
        return results, load_json(FAILED, (folder / FAILED).read_text(encoding="utf-8"))
    try:
        return compare(comparison, folder, **options), {}
    except RunsFailedError as error:
        if not error.results.runs:
            raise
        failed = {key: f"{each.kind}: {each.reason}" for key, each in error.failed.items()}
        write_json(folder / FAILED, failed)
        return error.results, failed


def _take(trials: Sequence[Trial], results: Results, failed: Mapping[str, str], seed: int) -> None:
    """Give each trial of a rung its run, or the reason why it has none that counts."""
    runs = {(run["scenario"], run["strategy"]): run for run in results.runs}
    for trial in trials:
        scenario, label = trial.search.scenario, trial.setting.label
        run = runs.get((scenario, label))
        if run is None:
            reason = failed.get(f"{scenario} | {label} | seed {seed}", "its run is missing")
            trial.failed = f"failed on seed {seed}: {reason}"
        elif run["diverged"]:
            trial.failed = f"diverged on seed {seed}: {run['diverged']}"
        else:
            trial.runs.append(run)


def _telling(watch: Watch, rung: str, said: str) -> Watch:
    """Return a watch that begins with a line about the rung."""

    @contextmanager
    def telling(comparison: Comparison, done: int) -> Iterator[Hear]:
        with watch(comparison, done) as hear:
            hear(rung, said)
            yield hear

    return telling


@contextmanager
def _stopped(folder: Path) -> Iterator[None]:
    """Say at a stop what is kept, also between two rungs."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or f"what has ended is kept in {folder}") from None


def _clear(folder: Path) -> None:
    """Remove what an earlier tuning left in a folder, and nothing else that is there."""
    for name in (TUNING, TUNED):
        (folder / name).unlink(missing_ok=True)
    for rung in folder.glob("rung-[0-9]*"):
        shutil.rmtree(rung)
