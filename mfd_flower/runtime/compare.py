"""Run a comparison: many runs side by side in processes, kept one by one as they finish."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from mfd_flower.accounting.summary import summarise
from mfd_flower.checks import ConfigError
from mfd_flower.comparison import Comparison, PlannedRun
from mfd_flower.files import write_json
from mfd_flower.node import check_run
from mfd_flower.runtime.ledgers import write_ledger
from mfd_flower.strategy import build_strategy

SCHEMA = 1
PACKAGES = ("flwr", "lightning", "torch", "timm", "peft", "mfd-flower")


News = tuple[str, dict[str, Any] | None]
"""A run's key and a measured point; None says that the run has begun."""
_news: multiprocessing.Queue[News]
"""Set in each worker process."""


class Watcher(Protocol):
    """Hears how the runs get on, each by its key."""

    def begin(self, key: str) -> None:
        """Hear that a run has begun."""

    def point(self, key: str, point: Mapping[str, Any]) -> None:
        """Hear of a measured point."""

    def end(self, key: str) -> None:
        """Hear that a run is finished and kept."""


def check(comparison: Comparison) -> None:
    """Try everything that can be wrong with the input before anything runs or is written.

    Raises
    ------
    ConfigError
        For the first setting that does not fit data, model or strategy.
    """
    for planned in comparison.runs:
        build_strategy(planned.config)
        check_run(planned.config)


def open_results(
    folder: Path, comparison: Comparison, *, resume: bool, overwrite: bool
) -> dict[str, Any]:
    """Read what an earlier start left in `folder`, or begin anew.

    Raises
    ------
    ConfigError
        If the folder is not writable, holds results of another comparison, or holds results of
        this one that are neither to be resumed nor overwritten.
    """
    file = folder / "results.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / ".writable"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ConfigError("--out", str(folder), f"not writable ({error.strerror})") from error
    fresh = {
        "schema": SCHEMA,
        "config": comparison.describe(),
        "machine": machine(),
        "runs": [],
        "summary": {},
    }
    if overwrite or not file.exists():
        return fresh
    found = read_results(folder)
    if found["config"] != fresh["config"]:
        raise ConfigError(
            "--out", str(folder), "holds results of another comparison; --overwrite replaces them"
        )
    if not resume and len(found["runs"]) < len(comparison.runs):
        raise ConfigError(
            "--out", str(folder), "holds an unfinished comparison; --resume or --overwrite"
        )
    return found


def read_results(folder: Path) -> dict[str, Any]:
    """Read ``results.json`` of a folder, or say in one line why not."""
    file = folder / "results.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("DIR", str(folder), f"no results.json ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError("DIR", str(folder), f"results.json is not JSON ({error})") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ConfigError("DIR", str(folder), f"results.json is not of schema {SCHEMA}")
    return found


def run_comparison(
    comparison: Comparison,
    folder: Path,
    results: dict[str, Any],
    watcher: Watcher,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Do the runs that `results` lacks; after each one ``results.json`` is whole again.

    Parameters
    ----------
    comparison : Comparison
        What to run.
    folder : Path
        Holds ``results.json``.
    results : dict
        From `open_results`; filled in place.
    watcher : Watcher
        Hears how the runs get on.
    jobs : int, optional
        Runs side by side; as many as there are cores without it. The numbers do not depend on it.
    """
    done = {(r["scenario"], r["strategy"], r["seed"]) for r in results["runs"]}
    todo = [p for p in comparison.runs if (p.scenario, p.label, p.config.seed) not in done]
    jobs = max(1, min(jobs or os.cpu_count() or 1, len(todo)))
    order = {(p.scenario, p.label, p.config.seed): i for i, p in enumerate(comparison.runs)}
    # Spawned, not forked: torch's and Flower's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    news: multiprocessing.Queue[News] = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin_worker, initargs=(news,)
    )
    waiting: dict[Future[dict[str, Any]], PlannedRun] = {
        pool.submit(_worker, planned, threads): planned for planned in todo
    }
    try:
        while waiting:
            finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            _pass_on(news, watcher)
            for future in finished:
                planned = waiting.pop(future)
                record = future.result()
                if lines := record.pop("ledger", ""):
                    number = order[record["scenario"], record["strategy"], record["seed"]]
                    record["ledger"] = write_ledger(folder, record, number, lines)
                results["runs"].append(record)
                results["runs"].sort(key=lambda r: order[r["scenario"], r["strategy"], r["seed"]])
                results["summary"] = summarise(results["runs"], comparison.margin)
                write_json(folder / "results.json", results)
                watcher.end(planned.key)
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return results


def machine() -> dict[str, Any]:
    """Describe where the numbers were made."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _begin_worker(news: multiprocessing.Queue[News]) -> None:
    global _news
    _news = news
    # Ctrl-C reaches the whole process group; the parent decides what to keep.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Whoever killed the parent wants no run to go on unseen.
        os._exit(1)


def _worker(planned: PlannedRun, threads: int) -> dict[str, Any]:
    from mfd_flower.runtime.runner import run_locally

    _news.put((planned.key, None))
    started = time.perf_counter()
    record = run_locally(planned.config, lambda p: _news.put((planned.key, p)), workers=threads)
    return {
        "scenario": planned.scenario,
        "strategy": planned.label,
        "seed": planned.config.seed,
        "yardstick": planned.yardstick,
        "wall_seconds": time.perf_counter() - started,
        **record,
    }


def _pass_on(news: multiprocessing.Queue[News], watcher: Watcher) -> None:
    while True:
        try:
            key, point = news.get_nowait()
        except queue.Empty:
            return
        if point is None:
            watcher.begin(key)
        else:
            watcher.point(key, point)
