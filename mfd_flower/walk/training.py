"""The local update of a visit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from mfd_flower.walk.trait import Fit, Training
from mfd_flower.walk.visit import Visit

WALKER_STEPS = 1 << 20
"""Hops that a walker may make before its randomness would be that of the next one."""


def train(visit: Visit) -> None:
    """Train what is selected on the node's data, each trait around those that stand inside it."""
    training: Training = partial(_local_update, visit)
    for trait in reversed(visit.plan.traits):
        training = partial(trait.fit, visit, training)
    visit.fit = training(visit.tensors)
    arrived = visit.start.decoded()
    visit.changes = {
        name: tensor
        for name, tensor in visit.fit.tensors.items()
        # What was merged on arrival is new to the next node even where nothing was trained.
        if name in visit.only or visit.tensors[name] is not arrived[name]
    }


def _local_update(
    visit: Visit,
    tensors: Mapping[str, Tensor],
    *,
    epoch: int | None = None,
    most_epochs: int = 0,
    optimizer_state: Mapping[str, Tensor] | None = None,
) -> Fit:
    """Do what `trait.Training` says; randomness depends on walker, hop and epoch alone."""
    first, hop = int(visit.start.walker.removeprefix("w")) * WALKER_STEPS, visit.start.hop
    trained, result = visit.node.fit(
        tensors,
        first + (hop if epoch is None else hop * most_epochs + epoch),
        epochs=None if epoch is None else 1,
        optimizer_state=optimizer_state,
        only=visit.only,
    )
    return Fit(trained, result.samples, result.optimizer_state)
