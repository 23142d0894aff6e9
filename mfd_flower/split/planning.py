"""Cuts for a cluster from what the blocks of a model really cost; `plan_cuts` does the planning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from mfd_flower.config import RunConfig
from mfd_flower.models import PromptedViT, input_spec
from mfd_flower.models.stages import split_model
from mfd_flower.split.costs import training_cost
from mfd_flower.split.cuts import plan_cuts
from mfd_flower.split.roster import EDGE

MEASURED_SAMPLES = 2
"""Costs are proportional to the samples of a batch."""


def planned_cuts(model: PromptedViT, members: Sequence[str], run: RunConfig) -> list[int]:
    """Cut a model so that the slowest stage or link of a training step is as fast as can be.

    Parameters
    ----------
    model : PromptedViT
        Each block is measured as a stage of its own, forward and backward.
    members : sequence of str
        Who holds each stage; a link to the edge server is as slow as the slower of ``up`` and
        ``down``.
    run : RunConfig
        Rates of devices and links.
    """
    model.eval()
    network, spec = run.network, input_spec(model.backbone)
    side = spec.size_px
    images = torch.zeros(MEASURED_SAMPLES, spec.channels, side, side)
    stage_name = model.frozen_stage()
    tensor = model.frozen_outputs(stage_name, images)
    depth = len(model.backbone.blocks)
    costs, cut_bytes = [], []
    for stage in split_model(model, range(1, depth), inputs=stage_name):
        costs.append(float(training_cost(stage, tensor, run.train, 1).flops))
        tensor = stage(tensor).detach().requires_grad_(True)
        cut_bytes.append(float(tensor.nbytes))
    beside_edge = min(network.up_bps, network.down_bps)
    rates = [
        beside_edge if EDGE in pair else network.d2d_bps for pair in itertools.pairwise(members)
    ]
    speeds = [network.flops_per_s] * len(members)
    return plan_cuts(costs, speeds, cut_bytes=cut_bytes[:-1], link_bps=rates)


def even_cuts(depth: int, stages: int) -> list[int]:
    """Give every stage as many blocks as any other, or one more or less."""
    return [round(depth * place / stages) for place in range(1, stages)]
