"""Runs side by side in processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

from joblib import cpu_count

from mfd_flower.comparison import PlannedRun
from mfd_flower.data.decoded import share_decoded
from mfd_flower.models.residents import keep_features
from mfd_flower.results import reason_of
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally

Event = Mapping[str, Any] | str
"""``"begins"``, a measured point, a line of text, or ``"ends"``."""


class FailedRun(NamedTuple):
    """What a run failed of, in words: not every exception survives the way between processes."""

    kind: str
    """Name of the exception's class."""
    reason: str
    trace: str = ""
    """Where it was raised, for a debugger."""


Ended = dict[str, Any] | FailedRun
"""A run's record, or what it failed of."""
KILLED = FailedRun("RunKilledError", "its process was killed; out of memory?")
"""The process ended without a word, as the system ends one for want of memory."""
Hear = Callable[[str, Event], None]
"""Is told the key of a run and what happened to it."""
_news: multiprocessing.Queue[tuple[str, Event]]
"""Set in each worker process."""


class Features(NamedTuple):
    """Where processes keep decoded pictures, and what the frozen part of a model made of images.

    See `share_decoded` and `keep_features`.
    """

    folder: Path | None = None
    gigabytes: float | None = None


OWN = Features()
"""Each process in its own memory."""


def run_side_by_side(
    planned: Sequence[PlannedRun],
    jobs: int | None,
    hear: Hear,
    files: Mapping[str, RunFiles] = {},
    features: Features = OWN,
) -> Generator[tuple[PlannedRun, Ended], None, None]:
    """Yield each run as it ends, with its record or with what it failed of.

    `files` are those of runs that keep something, by key; `features` is where what is frozen is
    kept.
    There are as many processes as `jobs` says, or one a core. If one is killed, the runs that were
    under way are tried once more, each by itself: it cannot be told whose process it was.
    """
    left, begun = list(planned), set[str]()
    while left:
        done = set[str]()
        with contextlib.closing(_pooled(left, jobs, hear, files, features, begun)) as ended:
            for each, record in ended:
                if record is not KILLED:
                    done.add(each.key)
                    yield each, record
        left = [each for each in left if each.key not in done]
        suspects = [each for each in left if each.key in begun] or left[:1]
        left = [each for each in left if each not in suspects]
        if len(suspects) == 1:
            yield suspects[0], KILLED
            hear(suspects[0].key, "ends")
        elif suspects:
            # What they kept before the process was killed is of this start.
            going_on = {key: replace(each, resume=True) for key, each in files.items()}
            yield from run_side_by_side(suspects, 1, hear, going_on, features)


def _pooled(
    planned: Sequence[PlannedRun],
    jobs: int | None,
    hear: Hear,
    files: Mapping[str, RunFiles],
    features: Features,
    begun: set[str],
) -> Generator[tuple[PlannedRun, Ended], None, None]:
    """Run until all have ended or a process was killed; `begun` gets the keys of those begun."""
    cores = cpu_count()
    jobs = max(1, min(jobs or cores, len(planned)))
    # Torch's and Flower's threads do not survive a fork: what is forked, where that can be done, is
    # a process that has imported them once and does nothing else.
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload([_run.__module__])
    news: multiprocessing.Queue[tuple[str, Event]] = context.Queue()
    pool = ProcessPoolExecutor(jobs, context, _begin_worker, (news, features))
    try:
        with _nameless_main():
            if can_fork:
                _start_forkserver()
            threads = max(1, cores // jobs)
            waiting = {pool.submit(_run, p, threads, files.get(p.key)): p for p in planned}
        while waiting:
            finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            with contextlib.suppress(queue.Empty):
                while True:
                    key, event = news.get_nowait()
                    begun.update({key} if event == "begins" else ())
                    hear(key, event)
            for future in finished:
                each = waiting.pop(future)
                try:
                    record: Ended = future.result()
                except BrokenProcessPool:
                    record = KILLED
                except Exception as error:
                    record = FailedRun(type(error).__name__, reason_of(error))
                yield each, record
                if record is not KILLED:
                    hear(each.key, "ends")
    except BaseException:
        # Not terminated: while Lightning trains it takes that signal for a wish.
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_forkserver() -> None:
    """Start the process that others are forked from, which is not to hear Ctrl-C."""
    # Started inside the block the tracker would end it.
    resource_tracker.ensure_running()
    # The forkserver takes over what is blocked here. This process gets its Ctrl-C behind the block.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """Keep new processes from importing the caller's script, which would start the runs again."""
    main = vars(sys.modules["__main__"])
    names = {name: main.get(name) for name in ("__file__", "__spec__")}
    main.update(dict.fromkeys(names))
    try:
        yield
    finally:
        main.update(names)


def _begin_worker(news: multiprocessing.Queue[tuple[str, Event]], features: Features) -> None:
    global _news
    _news = news
    keep_features(*features)
    share_decoded(features.folder)
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


def _run(planned: PlannedRun, threads: int, files: RunFiles | None) -> Ended:
    def tell(event: Event) -> None:
        _news.put((planned.key, event))

    tell("begins")
    try:
        record = run_locally(planned.config, tell, threads, files, tell)
    except Exception as error:
        return FailedRun(type(error).__name__, reason_of(error), traceback.format_exc())
    cell = dict(zip(("scenario", "strategy", "seed"), planned.cell, strict=True))
    # Of a run that went on from a checkpoint the points count its earlier starts too.
    wall_seconds = record["points"][-1]["wall_seconds"]
    measured = {"yardstick": planned.yardstick, "wall_seconds": wall_seconds}
    return {**cell, **measured, **record}
