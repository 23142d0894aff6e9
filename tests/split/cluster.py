"""A cluster of threads, and what it trains: a small model over three stages or more."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from mfd_flower.config import TrainConfig
from mfd_flower.models import PromptedViT
from mfd_flower.models.stages import SplitStage, split_model
from mfd_flower.split.links import Neighbours
from mfd_flower.split.pipeline import StageResult, run_stage
from mfd_flower.split.queues import meet
from tests.models.test_prompts import vit

T = TypeVar("T")
TIMEOUT_S = 20.0
CLASSES = 7


def small_model(deep: bool = True, dropout: float = 0.0) -> PromptedViT:
    generator = torch.Generator().manual_seed(3)
    return PromptedViT(vit(), CLASSES, 4, deep, dropout=dropout, generator=generator)


def batches(sizes: Sequence[int], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(n, 1, 16, 16, generator=generator).to(dtype) for n in sizes]
    labels = [torch.randint(CLASSES, (n,), generator=generator) for n in sizes]
    return inputs, labels


def d2d_sent_bytes(end: Neighbours) -> int:
    """Return what left a node over its links."""
    return sum(sent for _, sent, _ in end.bytes_by_peer())


def together(
    members: Sequence[str],
    work: Callable[[int, Neighbours], T],
    codec: str = "fp32",
    timeout_s: float = TIMEOUT_S,
) -> list[T | BaseException]:
    """Let every position work in a thread of its own; returns results or what was raised."""
    key = object()

    def member(position: int) -> T:
        with meet(key, position, members, timeout_s, codec) as neighbours:
            return work(position, neighbours)

    with ThreadPoolExecutor(len(members)) as pool:
        futures = [pool.submit(member, position) for position in range(len(members))]
        return [future.exception() or future.result() for future in futures]


def train_split(
    model: PromptedViT,
    cuts: Sequence[int],
    sizes: Sequence[int],
    config: TrainConfig,
    *,
    micro_batches: int,
    u_shape: bool = False,
    codec: str = "fp32",
    ends: list[Neighbours] | None = None,
) -> list[StageResult]:
    """Train a model in place over threads; `ends` collects their links."""
    stages = split_model(model, cuts, u_shape=u_shape)
    inputs, labels = batches(sizes, model.head.weight.dtype)
    members = [f"n{i}" for i in range(len(stages) - u_shape)] + ["n0"] * u_shape
    lock = threading.Lock()

    def work(position: int, neighbours: Neighbours) -> StageResult:
        if ends is not None:
            with lock:
                ends.append(neighbours)
        return run_stage(
            SplitStage(stages[position], config),
            neighbours,
            timeout_s=TIMEOUT_S,
            inputs=inputs if neighbours.is_first else (),
            labels=labels if neighbours.is_last else (),
            micro_batches=micro_batches if neighbours.is_first else 1,
            seed=position,
        )

    results = together(members, work, codec)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, StageResult)]


def twin(model: PromptedViT) -> PromptedViT:
    return copy.deepcopy(model)
