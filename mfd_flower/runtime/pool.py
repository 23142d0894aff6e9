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
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from joblib import cpu_count

from mfd_flower.comparison import PlannedRun
from mfd_flower.data.decoded import share_decoded
from mfd_flower.models.residents import keep_features
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally

Event = Mapping[str, Any] | str
"""``"begins"``, a measured point, a line of text, or ``"ends"``."""
Ended = dict[str, Any] | Exception
"""A run's record, or what it failed of."""
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


class RunKilledError(RuntimeError):
    """The process of a run ended without a word, as the system ends one for want of memory."""


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
                if not isinstance(record, BrokenProcessPool):
                    done.add(each.key)
                    yield each, record
        left = [each for each in left if each.key not in done]
        suspects = [each for each in left if each.key in begun] or left[:1]
        left = [each for each in left if each not in suspects]
        if len(suspects) == 1:
            yield suspects[0], RunKilledError("its process was killed; out of memory?")
            hear(suspects[0].key, "ends")
        elif suspects:
            yield from run_side_by_side(suspects, 1, hear, files, features)


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
    with _nameless_main():
        waiting = {
            pool.submit(_run, each, max(1, cores // jobs), files.get(each.key)): each
            for each in planned
        }
    try:
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
                except Exception as error:
                    record = error
                yield each, record
                if not isinstance(record, BrokenProcessPool):
                    hear(each.key, "ends")
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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


def _run(planned: PlannedRun, threads: int, files: RunFiles | None) -> dict[str, Any]:
    def tell(event: Event) -> None:
        _news.put((planned.key, event))

    tell("begins")
    started = time.perf_counter()
    record = run_locally(planned.config, tell, threads, files, tell)
    cell = dict(zip(("scenario", "strategy", "seed"), planned.cell, strict=True))
    measured = {"yardstick": planned.yardstick, "wall_seconds": time.perf_counter() - started}
    return {**cell, **measured, **record}
