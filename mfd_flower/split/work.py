"""What a member of a cluster does in one round: train its stage, or answer with it.

GaisNet sections II-D and III-B (arXiv 2401.02668). The first member alone has images; its labels go
to the last one over the link that closes the ring, or stay with it if the split is U-shaped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from mfd_flower.config import RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.data.samples import Batches
from mfd_flower.models import get_tunables, set_tunables
from mfd_flower.models.residents import model_for
from mfd_flower.models.stages import SplitStage, Stage, split_model
from mfd_flower.models.tunables import named_tunables
from mfd_flower.split.frames import LinkError
from mfd_flower.split.inference import infer_stage
from mfd_flower.split.pipeline import run_stage
from mfd_flower.split.roster import Roster
from mfd_flower.split.share import Share, bytes_by_peer


def stages_of(run: RunConfig, num_classes: int, roster: Roster) -> list[Stage]:
    """Return the stages of this thread's model; training one does not touch another thread's."""
    model = model_for(run)
    inputs = model.frozen_stage()
    return split_model(model, roster.cuts, u_shape=roster.u_shape, inputs=inputs)


def train_position(
    roster: Roster,
    position: int,
    tensors: Mapping[str, Tensor],
    run: RunConfig,
    num_classes: int,
    *,
    samples: Samples | None = None,
    order_seed: int = 0,
) -> Share:
    """Meet the other members and train one stage for a round.

    Parameters
    ----------
    roster : Roster
        Who takes part, and how.
    position : int
        Of the stage.
    tensors : mapping of str to Tensor
        Tunables that arrived; those of other stages are passed over.
    run : RunConfig
        Settings.
    num_classes : int
        Classes of the data.
    samples : Samples, optional
        Of the first member, its inputs at the model's frozen stage.
    order_seed : int
        Decides the order of the samples.

    Raises
    ------
    LinkError
        If a neighbour fails, or does not come.
    """
    config = run.train
    if config.threads:
        torch.set_num_threads(config.threads)
    with roster.join(position) as neighbours:
        stage = stages_of(run, num_classes, roster)[position]
        set_tunables(stage.part, _own(stage, tensors))
        inputs, labels = ordered_batches(samples, config, order_seed) if samples else ([], [])
        labels_travel = len(roster.members) > 1 and not roster.u_shape
        if labels_travel and neighbours.is_first:
            neighbours.upstream.send(torch.cat(labels))
        if labels_travel and neighbours.is_last:
            labels = in_batches(neighbours.downstream.recv(roster.timeout_s), config)
        every = None
        if neighbours.is_last:
            every = torch.cat(labels)
            every = every[: len(every) // config.local_epochs]
        seed = np.random.SeedSequence([run.seed, roster.round, roster.cluster, position])
        result = run_stage(
            SplitStage(stage, config, every),
            neighbours,
            timeout_s=roster.timeout_s,
            inputs=inputs if neighbours.is_first else (),
            labels=labels if neighbours.is_last else (),
            micro_batches=roster.micro_batches,
            seed=int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)),
        )
    each = result.samples // config.local_epochs
    return Share(
        get_tunables(stage.part),
        result.loss,
        None,
        config.local_epochs * -(-each // (config.batch_size or each)),
        result.flops,
        result.peak_bytes,
        bytes_by_peer(neighbours),
    )


def infer_position(
    roster: Roster,
    position: int,
    tensors: Mapping[str, Tensor],
    run: RunConfig,
    num_classes: int,
    *,
    inputs: Tensor | None = None,
) -> Share:
    """Meet the other members and run one stage forward; parameters as `train_position` has them.

    `tensors` are the stage's tunables, or all its parameters for a member that has no backbone.
    The asker, at position 0, has the `inputs`.
    """
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    with roster.join(position) as neighbours:
        stage = stages_of(run, num_classes, roster)[position]
        if tensors.keys() & {n for n, p in stage.part.named_parameters() if not p.requires_grad}:
            # Not into the backbone that others of this process share.
            stage = copy.deepcopy(stage).requires_grad_(True)
        set_tunables(stage.part, _own(stage, tensors))
        done = infer_stage(
            stage,
            neighbours,
            timeout_s=roster.timeout_s,
            inputs=inputs,
            micro_batches=roster.micro_batches,
        )
    links = bytes_by_peer(neighbours)
    return Share({}, math.nan, done.logits, 1, done.flops, done.peak_bytes, links)


def side_by_side(work: Callable[[int], Share], positions: Sequence[int]) -> list[Share]:
    """Work on a node's first position in this thread, on others in threads of their own."""
    first, *others = positions
    with ThreadPoolExecutor(max(1, len(others))) as pool:
        futures = [pool.submit(work, position) for position in others]
        try:
            shares = [work(first)]
        except LinkError:
            for future in futures:
                # If it is this node's own failure, it says more than word of it does.
                future.result()
            raise
        return shares + [future.result() for future in futures]


def ordered_batches(
    samples: Samples, config: TrainConfig, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and labels of all batches of a round, in the order that `fit` takes them."""
    generator = torch.Generator().manual_seed(seed) if config.shuffle else None
    batches = Batches(samples, config.batch_size, generator)
    pairs = [batch for _ in range(config.local_epochs) for batch in batches]
    return [inputs for inputs, _ in pairs], [labels for _, labels in pairs]


def in_batches(labels: Tensor, config: TrainConfig) -> list[Tensor]:
    """Cut the labels of a round, epoch after epoch in one row, into its batches."""
    epochs = labels.split(max(1, len(labels) // config.local_epochs))
    return [part for epoch in epochs for part in epoch.split(config.batch_size or len(epoch))]


def _own(stage: Stage, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name, _ in named_tunables(stage.part) if name in tensors}
