"""Where features are kept, what a frozen part made of images: within a budget, once a machine.

A comparison's processes share files, which they map instead of reading them; a process by itself,
and one that computes on an accelerator, has them in memory of its own. What finds no room is told
so, and made again whenever it is needed. No number depends on the budget.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from torch import Tensor

from mfd_flower.checks import Bounds, ConfigError
from mfd_flower.records import reading_headers

BATCH = 32
"""Samples that a frozen part is run on at a time, always so many: how a sum is rounded depends on
the batch's size, and a sample's features must not depend on whose shard it is in."""
BUDGET_GB = 2.0
"""Unless the environment's ``MFD_CACHE_GB`` or a command says otherwise."""

Make = Callable[[int, int], Tensor]
"""Makes the features of samples ``start`` to ``stop``, at most `BATCH`, on their device."""


class Store(Protocol):
    """Keeps the features of one federation."""

    def keep(self, name: str, count: int, make: Make) -> Tensor | None:
        """Return the features of `count` samples, made or found; None where there is no room."""


class Memory:
    """Features in this process, on whatever device they are made."""

    def __init__(self, budget_bytes: float) -> None:
        self._left_bytes, self._lock = budget_bytes, threading.Lock()

    def keep(self, name: str, count: int, make: Make) -> Tensor | None:
        """See `Store`."""
        first = make(0, min(BATCH, count))
        rows_bytes = first[0].nbytes * count
        with self._lock:
            if rows_bytes > self._left_bytes:
                return None
            self._left_bytes -= rows_bytes
        try:
            rows = first.new_empty(count, *first.shape[1:])
            _fill(rows, first, make)
        except BaseException:
            with self._lock:
                self._left_bytes += rows_bytes
            raise
        return rows


class Files:
    """Features in files below `root`, for all processes that map them.

    `federation` names what they are of. While one process uses a federation it stays; else the one
    that was opened longest ago makes room for new ones.
    """

    def __init__(self, root: Path, federation: str, budget_bytes: float) -> None:
        self._root, self._name, self._budget_bytes = root, federation, budget_bytes
        self._folder = root / federation
        with FileLock(root / ".lock"):
            self._folder.mkdir(exist_ok=True)
            # The system lets go of it when the process dies.
            self._in_use = FileLock(self._folder / f"{os.getpid()}-{uuid.uuid4().hex}.user")
            self._in_use.acquire()
            sizes = self._sizes()
            sizes[federation] = sizes.pop(federation, 0)
            self._write(sizes)

    def keep(self, name: str, count: int, make: Make) -> Tensor | None:
        """See `Store`."""
        path = self._folder / f"{name}.npy"
        if not path.exists():
            with FileLock(path.with_suffix(".lock")):
                if not path.exists() and not self._write_rows(path, count, make):
                    return None
        return _mapped(path)

    def _write_rows(self, path: Path, count: int, make: Make) -> bool:
        first = make(0, min(BATCH, count))
        if not self._reserve(first[0].nbytes * count):
            return False
        begun = path.with_suffix(".part")
        shape = (count, *first.shape[1:])
        try:
            array = npy.open_memmap(begun, mode="w+", dtype=np.float32, shape=shape)
            if hasattr(os, "posix_fallocate"):
                with begun.open("r+b") as file:
                    # Where the disk is full this fails, and not the first write into the mapping.
                    os.posix_fallocate(file.fileno(), 0, begun.stat().st_size)
            _fill(torch.from_numpy(array), first, make)
            array.flush()
            begun.rename(path)
        except BaseException as error:
            begun.unlink(missing_ok=True)
            self._release(first[0].nbytes * count)
            if isinstance(error, OSError):
                return False
            raise
        return True

    def _release(self, size_bytes: int) -> None:
        with FileLock(self._root / ".lock"):
            sizes = self._sizes()
            sizes[self._name] -= size_bytes
            self._write(sizes)

    def _reserve(self, size_bytes: int) -> bool:
        """Take so many bytes of the budget, dropping what nobody uses."""
        with FileLock(self._root / ".lock"):
            sizes = self._sizes()
            if size_bytes + sizes[self._name] > self._budget_bytes:
                return False
            for name in list(sizes):
                if sum(sizes.values()) + size_bytes <= self._budget_bytes:
                    break
                if name != self._name and _unused(self._root / name):
                    shutil.rmtree(self._root / name)
                    del sizes[name]
            fits = sum(sizes.values()) + size_bytes <= self._budget_bytes
            sizes[self._name] += size_bytes if fits else 0
            self._write(sizes)
        return fits

    def _sizes(self) -> dict[str, int]:
        """Return the bytes of each federation, longest ago opened first."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self._root / "sizes.json").read_text(encoding="utf-8"))
        return {}

    def _write(self, sizes: dict[str, int]) -> None:
        begun = self._root / "sizes.part"
        begun.write_text(json.dumps(sizes), encoding="utf-8")
        begun.replace(self._root / "sizes.json")


def budget_bytes(gigabytes: float | None = None) -> float:
    """Return the budget that a command names, or else the environment or its default."""
    if gigabytes is not None:
        return 1e9 * Bounds(0.0).number("--cache-gb", gigabytes)
    told = os.environ.get("MFD_CACHE_GB", BUDGET_GB)
    try:
        return 1e9 * Bounds(0.0).number("MFD_CACHE_GB", float(told))
    except ValueError:
        raise ConfigError("MFD_CACHE_GB", told, "a number of gigabytes, at least 0") from None


def _fill(rows: Tensor, first: Tensor, make: Make) -> None:
    rows[: len(first)] = first
    for start in range(len(first), len(rows), BATCH):
        stop = min(start + BATCH, len(rows))
        rows[start:stop] = make(start, stop)


def _mapped(path: Path) -> Tensor:
    # Not numpy's own mapping: it holds an open file, of which a process may have a thousand.
    with open(path, "rb") as file:
        with reading_headers:
            npy.read_magic(file)
            shape, _, _ = npy.read_array_header_1_0(file)
        values = math.prod(shape)
        start = file.tell() // 4
    return torch.from_file(str(path), shared=False, size=start + values)[start:].view(shape)


def _unused(folder: Path) -> bool:
    for user in folder.glob("*.user"):
        try:
            FileLock(user, timeout=0).acquire().lock.release()
        except Timeout:
            return False
    return True
