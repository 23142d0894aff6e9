"""Run a comparison: every run is kept as it ends, and a later start goes on from there."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from joblib import cpu_count

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import Comparison, Tables, load_comparison, same_runs
from mfd_flower.data.decoded import share_decoded
from mfd_flower.files import slug, to_json
from mfd_flower.models.devices import device_for, device_name
from mfd_flower.models.features import budget_bytes
from mfd_flower.models.inputs import federation_of
from mfd_flower.results import FILE, REPORT_FILES, Results
from mfd_flower.run_checks import check_run
from mfd_flower.runtime.checkpoints import STATE
from mfd_flower.runtime.ledgers import LEDGERS, write_ledger
from mfd_flower.runtime.pool import FailedRun, Features, Hear, run_side_by_side
from mfd_flower.runtime.run_files import CHECKPOINTS, MODELS, RunFiles
from mfd_flower.strategy import build_strategy

PACKAGES = ("flwr", "lightning", "torch", "timm", "peft", "mfd-flower")

Watch = Callable[[Comparison, int], AbstractContextManager[Hear]]
"""Takes a comparison and how many of its runs are done; shows how the others get on."""


class RunsFailedError(RuntimeError):
    """Some runs ended without a result; the others are kept.

    Attributes
    ----------
    failed : mapping
        What each of them failed of, by key.
    results : Results
        Of the others.
    """

    def __init__(self, line: str, failed: Mapping[str, FailedRun], results: Results) -> None:
        super().__init__(line)
        self.failed, self.results = failed, results


def compare(
    config: Path | str | Tables | Comparison,
    out: Path | str | None = None,
    *,
    jobs: int | None = None,
    cache_gb: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda comparison, done: nullcontext(lambda key, event: None),
) -> Results:
    """Run every strategy of a comparison on the same data and seeds.

    Parameters
    ----------
    config
        A TOML file, its tables, or what `load_comparison` made of them.
    out
        Folder for ``results.json``, which has each run as soon as it has ended, and a summary in
        the end; nothing is written without it.
    jobs
        Runs side by side; without it one a core, and one alone on an accelerator. The numbers do
        not depend on it.
    cache_gb
        Room for what frozen parts of models make of images, in files that all runs share or on an
        accelerator; without it the environment's ``MFD_CACHE_GB``, or 2. The numbers do not depend
        on it.
    resume, overwrite
        Go on with what the folder holds, a run that was stopped from its last checkpoint, or
        replace it; not both.
    watch
        Shows how the runs get on, as `mfd_flower.report.progress.watch` does.

    Raises
    ------
    ConfigError
        For bad input, before anything runs or is written.
    RunsFailedError
        If some runs failed, when the others have ended.
    """
    if resume and overwrite:
        raise ConfigError("--resume", resume, "accepted without --overwrite, which begins anew")
    comparison = config if isinstance(config, Comparison) else load_comparison(config)
    notes = check(comparison)
    budget_bytes(cache_gb)
    folder = None if out is None else Path(out)
    devices = {device_for(planned.config.train) for planned in comparison.runs}
    automatic = {p.config.train for p in comparison.runs if p.config.train.accelerator == "auto"}
    taken = {device_name(device_for(train)) for train in automatic}
    if jobs is None and any(device.type != "cpu" for device in devices):
        jobs = 1
    machine = {
        "devices": sorted(map(device_name, devices)),
        "cores": cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    results = Results(comparison.describe(), machine)
    with held(folder) if folder else nullcontext():
        if folder is not None:
            results = _opened(folder, results, len(comparison.runs), resume, overwrite)
        done = len(results.runs)
        if done == len(comparison.runs) and folder:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        elif done < len(comparison.runs):
            try:
                with watch(comparison, done) as hear, _features(folder) as features:
                    for note in notes:
                        hear("data", note)
                    for name in taken:
                        hear("device", f"train.accelerator = auto took {name}")
                    room = Features(features, cache_gb)
                    _run_missing(comparison, folder, results, jobs, resume, hear, room)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_kept(folder, len(comparison.runs))) from None
    return results


def run(
    strategy: str,
    config: Path | str | Tables,
    out: Path | str | None = None,
    *,
    rounds: int | None = None,
    **keywords: Any,
) -> Results:
    """Run one strategy on the data, scenarios and seeds of a comparison.

    Where the comparison lists the strategy, its first entry's settings are used; `rounds` replaces
    that entry's. The other parameters are those of `compare`.
    """
    return compare(load_comparison(config, strategy, rounds), out, **keywords)


def check(comparison: Comparison) -> list[str]:
    """Try everything that can be wrong with the input before anything runs or is written.

    Returns what is remarkable about the data.
    """
    notes: dict[str, None] = {}
    for planned in comparison.runs:
        build_strategy(planned.config)
        check_run(planned.config)
        notes |= dict.fromkeys(federation_of(planned.config).notes)
    return list(notes)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder to this command alone; the system lets go of it if the command dies."""
    path = folder / ".lock"
    lock, left = FileLock(path, timeout=0), path.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError("--out", str(folder), "another command is at work there") from None
    except OSError as error:
        raise ConfigError("--out", str(folder), f"not writable ({error.strerror})") from error
    try:
        yield
    except ConfigError:
        if not left:
            path.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


@contextmanager
def _features(folder: Path | None) -> Iterator[Path]:
    """Make a folder for pictures and features, for as long as the runs last."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as parent:
        features = Path(parent) / ".features"
        # Of a command that was killed.
        shutil.rmtree(features, ignore_errors=True)
        features.mkdir()
        share_decoded(features)
        try:
            yield features
        finally:
            share_decoded(None)
            shutil.rmtree(features, ignore_errors=True)


def _opened(folder: Path, fresh: Results, runs: int, resume: bool, overwrite: bool) -> Results:
    """Return what an earlier start left in a folder, or `fresh` if there is nothing to keep."""

    def refused(reason: str) -> ConfigError:
        return ConfigError("--out", str(folder), reason)

    if overwrite:
        _clear(folder)
        return fresh
    # Until a run has ended the checkpoints are all there is.
    kept = folder if (folder / FILE).exists() else folder / CHECKPOINTS
    if not (kept / FILE).exists():
        return fresh
    found = Results.load(kept)
    if not same_runs(found.config, fresh.config):
        raise refused("holds results of another comparison; --overwrite replaces them")
    if not resume and len(found.runs) < runs:
        raise refused("holds an unfinished comparison; --resume or --overwrite")
    return found


def _clear(folder: Path) -> None:
    """Remove what an earlier comparison left in a folder, and nothing else that is there."""
    # Results first: they name the other files.
    for pattern in (FILE, *REPORT_FILES, f"{MODELS}/*.safetensors", f"{LEDGERS}/*.sqlite*"):
        for old in folder.glob(pattern):
            old.unlink()
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _kept(folder: Path | None, runs: int) -> str:
    if folder is None:
        return "no run is kept: there is no folder for them"
    # The stop may have come between a run's end and its place in the file.
    kept = len(Results.load(folder).runs) if (folder / FILE).exists() else 0
    return f"{kept} of {runs} runs are kept in {folder}"


@contextmanager
def _checkpoints(folder: Path | None, results: Results) -> Iterator[None]:
    """Keep a folder for checkpoints that tells whose they are, until there are none any more."""
    if folder is None:
        yield
        return
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    results.save(checkpoints)
    try:
        yield
    finally:
        if not any(checkpoints.glob(f"*/{STATE}")):
            shutil.rmtree(checkpoints, ignore_errors=True)


@contextmanager
def _summed_up(folder: Path | None, results: Results) -> Iterator[None]:
    """Write the results with their summary at the end, however it comes."""
    try:
        yield
    finally:
        if folder and results.runs:
            results.save(folder)


def _run_missing(
    comparison: Comparison,
    folder: Path | None,
    results: Results,
    jobs: int | None,
    resume: bool,
    hear: Hear,
    features: Features,
) -> None:
    """Do the runs that `results` lacks; after each one ``results.json`` has it."""

    def cell(record: Mapping[str, Any]) -> tuple[str, str, int]:
        return record["scenario"], record["strategy"], record["seed"]

    place = {planned.cell: number for number, planned in enumerate(comparison.runs)}
    done = {cell(record) for record in results.runs}
    todo = [planned for planned in comparison.runs if planned.cell not in done]
    files = {
        planned.key: RunFiles(
            folder,
            slug(f"{place[planned.cell]} {planned.label} seed {planned.config.seed}"),
            comparison.checkpoint_every,
            resume,
        )
        for planned in comparison.runs
        if folder
    }
    for planned in comparison.runs:
        # A stop may have come between the place of a run in the results and this.
        if folder and planned.cell in done:
            files[planned.key].drop_checkpoints()
    failed: dict[str, FailedRun] = {}
    texts = {cell(record): to_json(record) for record in results.runs}
    with (
        _summed_up(folder, results),
        _checkpoints(folder, results),
        closing(run_side_by_side(todo, jobs, hear, files, features)) as ended,
    ):
        for planned, record in ended:
            if isinstance(record, FailedRun):
                failed[planned.key] = record
                continue
            lines = record.pop("ledger", "")
            if lines and folder:
                record["ledger"] = write_ledger(folder, record, place[planned.cell], lines)
            results.runs.append(record)
            results.runs.sort(key=lambda record: place[cell(record)])
            if folder:
                texts[planned.cell] = to_json(record)
                results.save_texts(folder, (texts[cell(record)] for record in results.runs))
                files[planned.key].drop_checkpoints()
    if failed:
        kept = f", {len(results.runs)} are kept in {folder}" if folder else ""
        why = "; ".join(f"{k}: {each.kind}: {each.reason}" for k, each in failed.items())
        line = f"{len(failed)} of {len(place)} runs failed{kept}: {why}"
        error = RunsFailedError(line, failed, results)
        error.add_note(next(iter(failed.values())).trace)
        raise error
