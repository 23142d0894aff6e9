"""What a member of a cluster does in one round: train its stages, or answer with them.

GaisNet sections II-D and III-B (arXiv 2401.02668). The first member alone has images; its labels go
to the last one over the link that closes the ring, or stay with it if the split is U-shaped.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor, nn

from mfd_flower.config import RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.data.samples import Batches
from mfd_flower.models import set_tunables
from mfd_flower.models.residents import model_for
from mfd_flower.models.stages import SplitStage, Stage, split_model
from mfd_flower.models.training import check_memory
from mfd_flower.models.tunables import named_tunables
from mfd_flower.node import Node
from mfd_flower.records import REPORT
from mfd_flower.split.frames import LinkError
from mfd_flower.split.links import Neighbours
from mfd_flower.split.pipeline import StageResult, infer_stage, run_stage
from mfd_flower.split.roster import NotMetError, Roster

FAILURE = "failure"


def take_part(
    message: Message,
    node: Node,
    work: Callable[[Roster, int], StageResult],
    reply: Callable[[Roster, list[StageResult]], RecordDict],
    *,
    fits: int,
) -> Message:
    """Do a node's `work` at each of its positions; returns its reply, and what that cost.

    A node that is well itself but whose cluster is not replies with word of the failure. `fits` is
    1 for training, 0 for inference.
    """
    roster = Roster.from_record(message.content.config_records["roster"])
    try:
        results = side_by_side(lambda place: work(roster, place), roster.positions(node.address))
    except LinkError as error:
        failure = ConfigRecord({"reason": str(error), "met": not isinstance(error, NotMetError)})
        return Message(RecordDict({FAILURE: failure}), reply_to=message)
    peak_bytes = sum(result.peak_bytes for result in results)
    check_memory(peak_bytes, node.world_view().device.memory_bytes)
    content = reply(roster, results)
    content[REPORT] = report = ConfigRecord({**member_report(results, roster, fits=fits)})
    if roster.members[0] == node.address:
        report["samples"] = node.num_samples
    return Message(content, reply_to=message)


def stages_of(run: RunConfig, roster: Roster) -> list[Stage]:
    """Return the stages of this thread's model; training one does not touch another thread's."""
    model = model_for(run)
    return split_model(model, roster.cuts, u_shape=roster.u_shape, inputs=model.frozen_stage())


def tensors_for(
    address: str, roster: Roster, run: RunConfig, tensors: Mapping[str, Tensor], whole: bool = False
) -> dict[str, Tensor]:
    """Return those of `tensors` that an address trains, and if `whole` what is frozen there."""
    stages = stages_of(run, roster)
    named: list[tuple[str, nn.Parameter]] = []
    for position in roster.positions(address):
        part = stages[position].part
        named += part.named_parameters() if whole else named_tunables(part)
    return {name: tensors[name] if p.requires_grad else p.detach() for name, p in named}


def train_position(
    roster: Roster,
    position: int,
    tensors: Mapping[str, Tensor],
    run: RunConfig,
    node: Node | None = None,
) -> StageResult:
    """Meet the other members and train one stage for a round; LinkError if a neighbour fails.

    Of the `tensors` that arrived those of other stages are passed over. Without a `node` the edge
    server trains.
    """
    config = run.train
    with _stage_at(roster, position, tensors, run) as (stage, neighbours):
        inputs: list[Tensor] = []
        labels: list[Tensor] = []
        if node is not None and node.address == roster.members[0]:
            # Drawn as `Node.fit` draws it, so that the order of the samples is that of FedAvg.
            order_seed = int(node.rng(roster.round).integers(2**62))
            inputs, labels = ordered_batches(node.samples, config, order_seed)
        if len(roster.members) > 1 and not roster.u_shape:
            if neighbours.is_first:
                neighbours.upstream.send(torch.cat(labels))
            if neighbours.is_last:
                labels = in_batches(neighbours.downstream.recv(roster.timeout_s), config)
        once = None
        if neighbours.is_last:
            every = torch.cat(labels)
            once = every[: len(every) // config.local_epochs]
        seed = np.random.SeedSequence([run.seed, roster.round, roster.cluster, position])
        return run_stage(
            SplitStage(stage, config, once),
            neighbours,
            timeout_s=roster.timeout_s,
            inputs=inputs if neighbours.is_first else (),
            labels=labels if neighbours.is_last else (),
            micro_batches=roster.micro_batches,
            seed=int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)),
        )


def infer_position(
    roster: Roster,
    position: int,
    tensors: Mapping[str, Tensor],
    run: RunConfig,
    inputs: Tensor | None = None,
) -> StageResult:
    """Meet the other members and run one stage forward, as `train_position` trains one.

    `tensors` are the stage's tunables, or all its parameters for a member that has no backbone.
    The asker, at position 0, has the `inputs`.
    """
    parts, timeout_s = roster.micro_batches, roster.timeout_s
    with _stage_at(roster, position, tensors, run) as ends:
        return infer_stage(
            *ends,
            timeout_s=timeout_s,
            inputs=inputs,
            micro_batches=parts,
            precision=run.train.precision,
        )


@contextlib.contextmanager
def _stage_at(
    roster: Roster, position: int, tensors: Mapping[str, Tensor], run: RunConfig
) -> Iterator[tuple[Stage, Neighbours]]:
    """Meet the other members; yields the stage at a position, with its `tensors`, and its links."""
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    with roster.join(position) as neighbours:
        stage = stages_of(run, roster)[position]
        if tensors.keys() & {n for n, p in stage.part.named_parameters() if not p.requires_grad}:
            # Not into the backbone that others of this process share.
            stage = copy.deepcopy(stage).requires_grad_(True)
        own = {name: tensors[name] for name, _ in named_tunables(stage.part) if name in tensors}
        set_tunables(stage.part, own)
        yield stage, neighbours


def side_by_side(work: Callable[[int], StageResult], positions: Sequence[int]) -> list[StageResult]:
    """Work on a node's first position in this thread, on others in threads of their own."""
    first, *others = positions
    with ThreadPoolExecutor(max(1, len(others))) as pool:
        futures = [pool.submit(work, position) for position in others]
        try:
            return [work(first), *(future.result() for future in futures)]
        except LinkError:
            for future in futures:
                # If it is this node's own failure, it says more than word of it does.
                future.result()
            raise


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


def member_report(
    results: Sequence[StageResult], roster: Roster, *, fits: int
) -> dict[str, int | float | list[str] | list[int]]:
    """Return what a member did in a round, as `MeteredGrid` reads a report.

    `results` are of all its positions, `fits` is 1 for training and 0 for inference.
    """
    members, parts = roster.members, roster.micro_batches
    cuts = sum(one != other for one, other in itertools.pairwise(members))
    crossings = 2 * cuts if fits else cuts + (members[-1] != members[0])
    links = [link for result in results for link in result.links]
    return {
        "fits": fits,
        "flops": sum(result.flops for result in results),
        "peak-bytes": sum(result.peak_bytes for result in results),
        "fill": (parts + len(members) - 1) / parts,
        "crossings": results[0].batches * crossings,
        "peers": [peer for peer, _, _ in links],
        "sent": [sent for _, sent, _ in links],
        "received": [received for _, _, received in links],
    }
