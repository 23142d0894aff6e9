"""Training and inference over the stages of a cluster, several micro-batches under way.

A batch is cut into micro-batches that follow one another through the stages, one forward, one
backward (1F1B): Narayanan et al. 2019, *PipeDream*, section 3.2, and 2021, section 2.2.1
(arXiv 2104.04473). Weights change once a batch, by the gradient of the whole batch, so the result
is that of the model in one piece (SplitFed, arXiv 2004.12088, with one client). In inference the
last stage's output returns to the one that asked (GaisNet section III-B, arXiv 2401.02668).
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.models import get_tunables
from mfd_flower.models.devices import autocast, device_of, resident_trainer, set_products
from mfd_flower.models.stages import SplitStage, Stage
from mfd_flower.split.costs import forward_cost, training_cost
from mfd_flower.split.links import Neighbours


@dataclass(frozen=True)
class StageResult:
    """What one stage gave and took in a round."""

    flops: float
    peak_bytes: int
    """Weights, gradients, optimiser state, and what is kept of the micro-batches under way."""
    links: tuple[tuple[str, int, int], ...]
    """Peer, bytes sent to it and received from it; links inside one node are left out."""
    batches: int = 1
    """That went through."""
    loss: float = math.nan
    """Mean training loss, where the last stage is."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Trained tunables."""
    logits: Tensor | None = None
    """Of the asker after inference, ``(samples, num_classes)``."""


def run_stage(
    learner: SplitStage,
    neighbours: Neighbours,
    *,
    timeout_s: float,
    inputs: Sequence[Tensor] = (),
    labels: Sequence[Tensor] = (),
    micro_batches: int = 1,
    seed: int = 0,
) -> StageResult:
    """Train one stage in place while the others of the cluster train theirs.

    Every stage calls this in a thread or process of its own. Labels go over no link: who holds the
    last stage passes them, and if they must travel the caller sends them. LinkError if a neighbour
    fails, closes its link or is silent for longer than `timeout_s`.

    Parameters
    ----------
    inputs, labels : sequence of Tensor
        The batches in order: ``(batch, ...)`` each at the first stage, ``(batch,)`` at the last.
    micro_batches : int
        Of the first stage, which tells the others: into how many parts a batch is cut; one of fewer
        samples is cut into single ones.
    seed : int
        Decides prompt dropout, nothing else does.
    """
    run = _Training(learner, neighbours, timeout_s, deque(inputs), deque(labels), seed)
    sizes = run.agree(micro_batches)
    learner.run_batch = run.train_batch
    try:
        # Not `held`: members in one process wait for one another.
        resident_trainer(learner, learner.config.precision, max_epochs=1).fit(learner, sizes)
    finally:
        learner.run_batch = None
        learner.zero_grad()
    seen = sum(sizes)
    return StageResult(
        run.flops_per_sample * seen,
        run.peak_bytes,
        neighbours.bytes_by_peer(),
        len(sizes),
        run.loss / seen if neighbours.is_last and seen else math.nan,
        get_tunables(learner.stage.part),
    )


@dataclass
class _Training:
    learner: SplitStage
    neighbours: Neighbours
    timeout_s: float
    inputs: deque[Tensor]
    labels: deque[Tensor]
    seed: int
    loss: float = 0.0
    flops_per_sample: float = 0.0
    peak_bytes: int = 0
    micro_batches: int = 1
    under_way: deque[tuple[Tensor, Tensor]] = field(default_factory=deque)
    """Inputs and outputs of micro-batches whose backward pass is still to come."""

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the stage is."""
        return device_of(self.learner)

    def agree(self, micro_batches: int) -> list[int]:
        """Return the samples of each batch; the first stage tells the others, and how to cut."""
        plan = [micro_batches, *map(len, self.inputs)]
        self.micro_batches, *sizes = _told(plan, self.neighbours, self.timeout_s)
        given = [len(batch) for batch in self.labels]
        if self.neighbours.is_last and given != sizes:
            raise ConfigError("labels", given, f"accepted: batches of {sizes}, as the inputs")
        return sizes

    def train_batch(self, size: int) -> None:
        """Accumulate the gradient of a batch: a few forward passes ahead, then in turn."""
        parts = min(self.micro_batches, size)
        ahead = min(parts, len(self.neighbours.members) - 1 - self.neighbours.position)
        inputs, labels = (
            deque(batches.popleft().tensor_split(parts) if batches else ())
            for batches in (self.inputs, self.labels)
        )
        for step in range(parts + ahead):
            if step < parts:
                received = self._next(inputs)
                if not self.peak_bytes:
                    self._measure(received, min(parts, ahead + 1))
                outputs = _as_sent(self.learner(received))
                if self.neighbours.is_last:
                    outputs = self._part_of_loss(outputs, labels.popleft(), size)
                else:
                    self.neighbours.downstream.send(outputs)
                self.under_way.append((received, outputs))
            if step >= ahead:
                self._backward(*self.under_way.popleft())

    def _next(self, inputs: deque[Tensor]) -> Tensor:
        first = self.neighbours.is_first
        tensor = inputs.popleft() if first else self.neighbours.upstream.recv(self.timeout_s)
        # A leaf again, where the module is.
        return tensor.detach().to(self.device).requires_grad_(tensor.requires_grad)

    def _part_of_loss(self, logits: Tensor, labels: Tensor, size: int) -> Tensor:
        # The batch's mean, of which a smaller micro-batch is a smaller part.
        loss = self.learner.loss(logits, labels.to(logits.device)) * (len(labels) / size)
        self.loss += float(loss.detach()) * size
        return loss

    def _backward(self, received: Tensor, outputs: Tensor) -> None:
        if not outputs.requires_grad:
            return
        gradient = None
        if not self.neighbours.is_last:
            gradient = self.neighbours.downstream.recv(self.timeout_s).to(outputs.device)
        torch.autograd.backward(outputs, gradient)
        if received.requires_grad:
            assert received.grad is not None
            self.neighbours.upstream.send(received.grad)

    def _measure(self, received: Tensor, under_way: int) -> None:
        stage = self.learner.stage
        stage.part.dropout_generator = None
        cost = training_cost(stage, received, self.learner.config, under_way)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        stage.part.dropout_generator = generator
        self.flops_per_sample, self.peak_bytes = cost.flops / len(received), cost.peak_bytes


def _as_sent(outputs: Tensor) -> Tensor:
    """Return a stage's outputs in a precision that links carry."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def _told(plan: list[int], neighbours: Neighbours, timeout_s: float) -> list[int]:
    """Return the first stage's plan, which goes from stage to stage."""
    told = torch.tensor(plan) if neighbours.is_first else neighbours.upstream.recv(timeout_s)
    if not neighbours.is_last:
        neighbours.downstream.send(told)
    return list(told.tolist())


@torch.no_grad()
def infer_stage(
    stage: Stage,
    neighbours: Neighbours,
    *,
    timeout_s: float,
    inputs: Tensor | None = None,
    micro_batches: int = 1,
    precision: str = "32",
) -> StageResult:
    """Run one stage forward, in eval mode, while the others run theirs; logits return to the first.

    As `run_stage`; `inputs` of the first stage are ``(samples, ...)``, at least one. `precision` is
    `TrainConfig`'s.
    """
    stage.eval()
    device = device_of(stage)
    set_products(device, precision)
    upstream, downstream = neighbours.upstream, neighbours.downstream
    own = () if inputs is None else inputs.tensor_split(min(micro_batches, len(inputs)))
    (count,), alone = _told([len(own)], neighbours, timeout_s), len(neighbours.members) == 1
    # As many requests are under way as there are stages; then each answer makes room for one.
    ahead = min(count, len(neighbours.members)) if neighbours.is_first and not alone else 0
    logits, costs = [], []
    for step in range(count + ahead):
        if step < count:
            received = own[step] if neighbours.is_first else upstream.recv(timeout_s)
            received = received.to(device)
            costs.append(forward_cost(stage, received))
            with autocast(device, precision):
                outputs = _as_sent(stage(received))
            if alone:
                logits.append(outputs)
            else:
                # The ring closes: behind the last stage is the first, which asked.
                downstream.send(outputs)
        if neighbours.is_first and not alone and step >= ahead:
            logits.append(upstream.recv(timeout_s))
    return StageResult(
        sum(cost.flops for cost in costs),
        max(cost.peak_bytes for cost in costs),
        neighbours.bytes_by_peer(),
        logits=torch.cat(logits).cpu() if logits else None,
    )
