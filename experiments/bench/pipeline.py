"""Measure a pipelined training step against the bound that its slowest stage sets.

    python experiments/bench/pipeline.py                       # 4 equal stages, 8 micro-batches
    python experiments/bench/pipeline.py --scale 1 2 1 1 --json pipeline.json

Stages are threads of one process that talk over the real links; device speed is emulated: a stage
sleeps for a stated time in the forward pass of a micro-batch and twice as long in the backward
pass. With m micro-batches and s stages the bound of a step is (m + s - 1) / m times what the
slowest stage takes for all m of them (Narayanan et al. 2021, section 2.2.1, arXiv 2104.04473).
Efficiency is the bound over the measured step; speed-up is against one micro-batch a batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfd_flower.config import ModelConfig, TrainConfig
from mfd_flower.models import build_model
from mfd_flower.models.stages import SplitStage, split_model
from mfd_flower.split.pipeline import run_stage
from mfd_flower.split.queues import meet

CUTS = {2: [3], 3: [2, 4], 4: [1, 3, 5], 6: [1, 2, 3, 4, 5]}
SAMPLES = 32
TIMEOUT_S = 300.0


class EmulatedSpeed(torch.autograd.Function):
    """Pass a tensor through; forward takes `seconds`, backward twice that."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, seconds: float) -> Tensor:
        """Sleep for the forward pass."""
        ctx.seconds = seconds
        time.sleep(seconds)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Sleep for the backward pass."""
        time.sleep(2 * ctx.seconds)
        return gradient, None


class EmulatedStage(SplitStage):
    """A stage as slow as `batch_seconds` of forward passes for a whole batch."""

    batch_seconds = 0.0
    began: list[float]

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the stage and wait for its share of the time."""
        seconds = self.batch_seconds * len(inputs) / SAMPLES
        return EmulatedSpeed.apply(super().forward(inputs), seconds)

    def training_step(self, size: int, batch_idx: int) -> None:
        """Note when each batch begins."""
        self.began.append(time.perf_counter())
        super().training_step(size, batch_idx)


def step_seconds(batch_seconds: Sequence[float], micro_batches: int, steps: int) -> float:
    """Return the median time between the last stage's ends of batches."""
    count = len(batch_seconds)
    stages = split_model(build_model(ModelConfig(), 10, 0), CUTS[count])
    inputs = [torch.randn(SAMPLES, 1, 28, 28) for _ in range(steps + 1)]
    labels = [torch.arange(SAMPLES) % 10 for _ in range(steps + 1)]
    members = [f"n{position}" for position in range(count)]
    learners = []
    for stage, seconds in zip(stages, batch_seconds, strict=True):
        learner = EmulatedStage(stage, TrainConfig(optimizer="sgd", lr=0.01))
        learner.batch_seconds, learner.began = seconds, []
        learners.append(learner)

    def member(position: int) -> float:
        with meet("bench", position, members, TIMEOUT_S) as neighbours:
            run_stage(
                learners[position],
                neighbours,
                timeout_s=TIMEOUT_S,
                inputs=inputs if neighbours.is_first else (),
                labels=labels if neighbours.is_last else (),
                micro_batches=micro_batches,
            )
        return time.perf_counter()

    with ThreadPoolExecutor(count) as pool:
        ends = list(pool.map(member, range(count)))
    # The first stage is the first to begin a batch and the last to end one. The first batch, which
    # also measures costs, is left out.
    began = [*learners[0].began[1:], ends[0]]
    taken = sorted(end - start for start, end in itertools.pairwise(began))
    return taken[len(taken) // 2]


def main() -> None:
    """Print step time, bound and efficiency, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="A pipelined step against its bound.")
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0] * 4, help="per stage")
    parser.add_argument("--forward-s", type=float, default=2.0, help="of a batch, at scale 1")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    if len(args.scale) not in CUTS:
        parser.error(f"--scale: {len(args.scale)} stages: accepted: {', '.join(map(str, CUTS))}")
    torch.set_num_threads(1)
    seconds = [args.forward_s * scale for scale in args.scale]
    stages, micro_batches = len(seconds), args.micro_batches
    step = step_seconds(seconds, micro_batches, args.steps)
    alone = step_seconds(seconds, 1, args.steps)
    bound = (micro_batches + stages - 1) / micro_batches * 3 * max(seconds)
    numbers = {
        "stages": stages,
        "micro_batches": micro_batches,
        "step_s": step,
        "bound_s": bound,
        "efficiency": bound / step,
        "one_micro_batch_s": alone,
        "speed_up": alone / step,
    }
    for name, value in numbers.items():
        print(f"{name:<18}{value:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
