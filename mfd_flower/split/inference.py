"""Split inference: a client asks, the cluster's stages answer, micro-batches follow one another.

GaisNet section III-B (arXiv 2401.02668): the last stage's output returns to the one that asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mfd_flower.accounting.costs import StepCost
from mfd_flower.checks import ConfigError
from mfd_flower.models.stages import Stage
from mfd_flower.split.costs import counted_forward
from mfd_flower.split.links import Neighbours
from mfd_flower.split.pipeline import check_micro_batches


@dataclass(frozen=True)
class Inference:
    """What a stage's part in answering a request gave and took.

    Attributes
    ----------
    logits : Tensor or None
        ``(samples, num_classes)`` at the first stage, which asked; None at the others.
    flops : float
        Floating point operations of this stage.
    peak_bytes : int
        Its weights, and inputs and outputs of one micro-batch.
    """

    logits: Tensor | None
    flops: float
    peak_bytes: int


@torch.no_grad()
def infer_stage(
    stage: Stage,
    neighbours: Neighbours,
    *,
    timeout_s: float,
    inputs: Tensor | None = None,
    micro_batches: int = 1,
) -> Inference:
    """Run one stage forward while the others run theirs; the logits return to the first.

    Parameters
    ----------
    stage : Stage
        Put in eval mode.
    neighbours : Neighbours
        As for `run_stage`.
    timeout_s : float
        Longest time to wait for a neighbour's next tensor.
    inputs : Tensor, optional
        Of the first stage, ``(samples, ...)``.
    micro_batches : int
        Of the first stage: into how many parts it cuts its inputs.

    Raises
    ------
    LinkError
        If a neighbour fails, closes its link or is silent for too long.
    """
    stage.eval()
    try:
        if neighbours.is_first:
            check_micro_batches(micro_batches)
            return _ask(stage, neighbours, micro_batches, timeout_s, inputs)
        return _answer(stage, neighbours, timeout_s)
    except BaseException as error:
        neighbours.close(error)
        raise


def _ask(
    stage: Stage,
    neighbours: Neighbours,
    micro_batches: int,
    timeout_s: float,
    inputs: Tensor | None,
) -> Inference:
    if inputs is None or not len(inputs):
        raise ConfigError("inputs", inputs, "accepted: at least one sample, at the first stage")
    parts = inputs.tensor_split(min(micro_batches, len(inputs)))
    ahead = min(len(parts), len(neighbours.members))
    if not neighbours.is_last:
        neighbours.downstream.send(torch.tensor([len(parts)]))
    logits, costs = [], []
    for step in range(len(parts) + ahead):
        if step < len(parts):
            outputs, cost = counted_forward(stage, parts[step])
            costs.append(cost)
            if neighbours.is_last:
                logits.append(outputs)
            else:
                neighbours.downstream.send(outputs)
        if step >= ahead and not neighbours.is_last:
            logits.append(neighbours.upstream.recv(timeout_s))
    return _inference(costs, torch.cat(logits))


def _answer(stage: Stage, neighbours: Neighbours, timeout_s: float) -> Inference:
    told = neighbours.upstream.recv(timeout_s)
    if not neighbours.is_last:
        neighbours.downstream.send(told)
    costs = []
    for _ in range(int(told)):
        outputs, cost = counted_forward(stage, neighbours.upstream.recv(timeout_s))
        costs.append(cost)
        # The ring closes: behind the last stage is the first, which asked.
        neighbours.downstream.send(outputs)
    return _inference(costs)


def _inference(costs: Sequence[StepCost], logits: Tensor | None = None) -> Inference:
    return Inference(logits, sum(c.flops for c in costs), max(c.peak_bytes for c in costs))
