"""Features are kept within a budget, and are the same wherever and however often they are made."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.lib import format as npy

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data.samples import Rows
from mfd_flower.models import PromptedViT, residents
from mfd_flower.models.features import BATCH, Files, Memory, budget_bytes
from mfd_flower.models.residents import keep_features, shard
from mfd_flower.node import Node, evaluate_tunables, initial_tunables
from mfd_flower.records import reading_headers

MakeRun = Callable[..., RunConfig]
ROW_BYTES = 17 * 96 * 4
"""Tokens of fm-tiny."""


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    yield
    keep_features(None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count the batches that the frozen part is run on."""
    batches: Counter[int] = Counter()
    true = PromptedViT.frozen_outputs

    def counting(self: PromptedViT, stage: str, images: torch.Tensor) -> torch.Tensor:
        batches[len(images)] += 1
        return true(self, stage, images)

    monkeypatch.setattr(PromptedViT, "frozen_outputs", counting)
    return batches


def learnt(run: RunConfig) -> tuple[dict[str, torch.Tensor], float]:
    trained, _ = Node(run, 0).fit(initial_tunables(run), step=1)
    return trained, evaluate_tunables(run, trained).loss


@pytest.mark.parametrize(
    ("tune", "precision"), [("prompts", "32"), ("prompts", "bf16"), ("head", "32"), ("full", "32")]
)
@pytest.mark.parametrize("kept_bytes", [0, 45 * ROW_BYTES])
def test_no_number_depends_on_the_budget_or_where_it_is(
    tune: str, precision: str, kept_bytes: int, make_run: MakeRun, tmp_path: Path
) -> None:
    train = {"batch_size": 5, "precision": precision, "distillation": 2.0}
    run, found = make_run(model={"tune": tune}, train=train), []
    for folder, gigabytes in ((None, 1.0), (None, kept_bytes / 1e9), (tmp_path, 1.0)):
        keep_features(folder, gigabytes)
        found.append(learnt(run))
    for trained, loss in found[1:]:
        assert loss == found[0][1]
        assert all(torch.equal(trained[name], t) for name, t in found[0][0].items())


def test_a_sample_has_its_features_whoever_holds_it(make_run: MakeRun) -> None:
    run = make_run(model={"tune": "head"}, data={"train_samples": 100})
    whole = residents.images_of(run, "test")
    alone = [
        residents.frozen_features(run, whole.inputs[start : start + size])
        for start, size in ((0, 1), (7, 3), (20, 13))
    ]
    together = residents.frozen_features(run, whole.inputs[:])
    assert torch.equal(torch.cat(alone), together[[0, 7, 8, 9, *range(20, 33)]])


def test_what_does_not_fit_is_made_batch_by_batch(make_run: MakeRun, made: Counter[int]) -> None:
    run = make_run(data={"test_samples": 700})
    keep_features(None, 0.0)
    test = shard(run, "test")
    assert isinstance(test.inputs, Rows)
    made.clear()
    assert [len(part) for part in test.inputs.split(250)] == [250, 250, 200]
    assert set(made) == {BATCH}
    picked = torch.tensor([3, 699, 3])
    whole = torch.cat(list(test.inputs.split(100)))
    assert torch.equal(test.inputs[picked], whole[picked])


def test_memory_is_given_to_those_that_fit() -> None:
    store = Memory(10 * 4 * 5)

    def make(start: int, stop: int) -> torch.Tensor:
        return torch.arange(start, stop, dtype=torch.float32)[:, None].expand(-1, 5).clone()

    found = [store.keep(name, count, make) for name, count in (("a", 6), ("b", 5), ("c", 4))]
    assert [None if rows is None else len(rows) for rows in found] == [6, None, 4]
    long = Memory(1e6).keep("d", 3 * BATCH + 1, make)
    assert long is not None
    assert torch.equal(long, make(0, 3 * BATCH + 1))


def _other_process(run: RunConfig, folder: Path, results: multiprocessing.Queue) -> None:
    made: Counter[int] = Counter()
    true = PromptedViT.frozen_outputs
    PromptedViT.frozen_outputs = lambda *args: (made.update([1]), true(*args))[1]  # type: ignore
    keep_features(folder, 1.0)
    inputs = shard(run, "test").inputs
    results.put((made[1], float(inputs[:].double().sum())))


@pytest.mark.slow
def test_processes_make_features_once_and_map_them(
    make_run: MakeRun, made: Counter[int], tmp_path: Path
) -> None:
    run = make_run()
    keep_features(tmp_path, 1.0)
    inputs = shard(run, "test").inputs
    assert made == {BATCH: 2}
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    other = context.Process(target=_other_process, args=(run, tmp_path, results))
    other.start()
    assert results.get(timeout=120) == (0, float(inputs[:].double().sum()))
    other.join()
    # Another strategy of the comparison, and other tunables at the same stage, have them too.
    made.clear()
    residents._kept.cache_clear()
    shard(make_run("fedavg", train={"lr": 0.3}, model={"prompts": 3}), "test")
    assert not made
    for other_run in (make_run(seed=1), make_run(model={"tune": "head"})):
        made.clear()
        shard(other_run, "test")
        assert made


def test_files_never_take_more_than_the_budget(tmp_path: Path) -> None:
    """What is in use stays; of what is not, the longest ago opened goes."""

    def make(start: int, stop: int) -> torch.Tensor:
        return torch.ones(stop - start, 25)

    def names() -> set[str]:
        return set(json.loads((tmp_path / "sizes.json").read_text(encoding="utf-8")))

    first, second = (Files(tmp_path, name, 1000) for name in ("first", "second"))
    assert first.keep("0", 4, make) is not None
    assert second.keep("0", 4, make) is not None
    kept = second.keep("1", 2, make)
    assert kept is not None
    third = Files(tmp_path, "third", 1000)
    assert third.keep("0", 1, make) is None
    del first
    assert third.keep("0", 4, make) is not None
    assert names() == {"second", "third"}
    assert third.keep("1", 1, make) is None
    sizes = [path.stat().st_size - 128 for path in tmp_path.rglob("*.npy")]
    assert sum(sizes) == 1000
    assert torch.equal(kept, torch.ones(2, 25))


def test_a_map_holds_no_open_file(tmp_path: Path) -> None:
    """A process may have a thousand shards."""
    store = Files(tmp_path, "f", 1e9)
    rows = [store.keep(str(n), 2, lambda a, b: torch.ones(b - a, 3)) for n in range(20)]
    assert all(r is not None for r in rows)
    held = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [path for path in held if path.suffix == ".npy"]


@pytest.mark.parametrize(("told", "line"), [("x", "a number of gigabytes"), ("-1", "at least 0")])
def test_a_budget_that_is_none_is_refused(
    told: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFD_CACHE_GB", told)
    with pytest.raises(ConfigError, match=f"MFD_CACHE_GB = .*{line}"):
        budget_bytes()
    with pytest.raises(ConfigError, match=r"--cache-gb = -2\.0: must be"):
        budget_bytes(-2.0)
    monkeypatch.setenv("MFD_CACHE_GB", "0.5")
    assert budget_bytes() == 5e8


@pytest.mark.parametrize("store", [Memory, Files])
def test_what_failed_takes_no_room(store: Callable[..., Any], tmp_path: Path) -> None:
    """Nor does what the disk has no room for, which is made again instead."""
    size = 40 * 4 * 4
    kept = store(size) if store is Memory else store(tmp_path, "a", size)

    def fail(start: int, stop: int) -> torch.Tensor:
        if start:
            raise RuntimeError("broken")
        return torch.ones(stop - start, 4)

    with pytest.raises(RuntimeError, match="broken"):
        kept.keep("x", 40, fail)
    assert kept.keep("x", 40, lambda start, stop: torch.ones(stop - start, 4)).sum() == 160


def test_a_full_disk_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    kept, monkey = Files(tmp_path, "a", 1e9), monkeypatch
    monkey.setattr(os, "posix_fallocate", full)
    assert kept.keep("x", 40, lambda start, stop: torch.ones(stop - start, 4)) is None
    assert not list(tmp_path.rglob("*.part"))
    monkey.undo()
    assert kept.keep("x", 40, lambda start, stop: torch.ones(stop - start, 4)) is not None


def test_the_sizes_are_whole_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be killed while it writes them."""
    kept = Files(tmp_path, "a", 1e9)
    before = (tmp_path / "sizes.json").read_bytes()

    def killed(self: Path, text: str, **keywords: object) -> int:
        with self.open("w") as file:
            file.write(text[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        kept.keep("x", 40, lambda start, stop: torch.ones(stop - start, 4))
    assert (tmp_path / "sizes.json").read_bytes() == before


def test_headers_are_read_by_one_thread_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What parses them cannot be entered twice; records hold the same lock."""
    true, held = npy.read_array_header_1_0, []

    def read(file: object) -> object:
        held.append(reading_headers.locked())
        return true(file)

    monkeypatch.setattr(npy, "read_array_header_1_0", read)
    store = Files(tmp_path, "one", 1e6)
    for _ in range(2):
        store.keep("0", 2, lambda start, stop: torch.zeros(stop - start, 3))
    assert held == [True, True]
