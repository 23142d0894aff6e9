"""A prompted vision transformer as consecutive stages, each with only its own part of it.

GaisNet section II-D (arXiv 2401.02668): the first client holds Emb, the middle ones consecutive
blocks with their prompts, the last one the head. SplitFed (Thapa et al., arXiv 2004.12088) calls
the tensor at a cut smashed data. Frozen weights are the whole model's, not copies of them.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import lightning
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from mfd_flower.checks import ConfigError
from mfd_flower.config import TrainConfig
from mfd_flower.models.loss import Loss
from mfd_flower.models.optimizers import configured_optimizer
from mfd_flower.models.prompts import PromptedViT, as_prompted, entry_block
from mfd_flower.models.trunk import ROTARY, Trunk
from mfd_flower.models.tunables import named_tunables
from mfd_flower.models.tuned import Backbone, PlainBackbone, TunedModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)
TAIL = ("norm", "attn_pool", "fc_norm", "head_drop", "head")
"""Parts of a timm backbone behind its blocks; the others, save the blocks, are Emb."""


def split_model(
    model: TunedModel, cuts: Sequence[int], *, u_shape: bool = False, inputs: str = "images"
) -> list[Stage]:
    """Split a model into stages that, run in a row, are the model, and share its parameters.

    At cut c, block c - 1 is in front and block c behind: 0 leaves Emb alone in front, the depth
    leaves norm and head alone behind. With `u_shape` norm and head become one more stage, for the
    client that holds the labels. The first stage gets `inputs`, what is kept at a frozen stage (see
    `PromptedViT.frozen_stage`): of ``block-3`` it holds the blocks in front too, and runs those
    behind. Raises ConfigError if there are no such blocks, a stage would be empty, or one parameter
    that trains would be in several.
    """
    model = as_prompted(model, "it is split")
    depth = len(model.backbone.blocks)
    if inputs == "features":
        raise ConfigError("inputs", inputs, "accepted: images, tokens, block-1, block-2 ...")
    lowest, highest = entry_block(inputs), depth - 1 if u_shape else depth
    in_order = all(low < high for low, high in itertools.pairwise(cuts))
    if not in_order or not all(lowest <= cut <= highest for cut in cuts):
        accepted = f"accepted: strictly increasing block indices from {lowest} to {highest}"
        raise ConfigError("cuts", list(cuts), accepted)
    if model.levels:
        raise ConfigError("model.levels", list(model.levels), "accepted where it is split: none")
    everything = all(p.requires_grad for p in model.parameters())
    check_split(model.backbone, "full" if everything else "")
    bounds = [0, *cuts, depth, *([depth] if u_shape else [])]
    spans = [range(start, stop) for start, stop in itertools.pairwise(bounds)]
    return [
        Stage(model, blocks, first=blocks is spans[0], last=blocks is spans[-1], inputs=inputs)
        for blocks in spans
    ]


def check_split(backbone: Backbone, tune: str) -> Trunk:
    """Return a backbone that has stages.

    ConfigError if it has no blocks, or all blocks share a parameter that trains: no stage could
    have it.
    """
    if isinstance(backbone, PlainBackbone):
        kind = type(backbone.network).__name__
        raise ConfigError("model.backbone", kind, "accepted where it is split: token transformers")
    rotary = getattr(backbone, ROTARY, None)
    if tune == "full" and rotary is not None and list(rotary.parameters()):
        reason = "this backbone learns its rotations for all blocks together"
        raise ConfigError(
            "model.tune", tune, f"{reason}; accepted where it is split: prompts, lora"
        )
    return backbone


class Stage(nn.Module):
    """Consecutive blocks of a model, with Emb if `first`, with norm and head if `last`.

    `part` is what the stage has of the model, by the whole model's names: its tunables fit any
    stage of any cluster that holds the same module.
    """

    def __init__(
        self, model: PromptedViT, blocks: range, *, first: bool, last: bool, inputs: str
    ) -> None:
        super().__init__()
        self.blocks, self.last = blocks, last
        self.embeds = first and inputs == "images"
        self.entry = entry_block(inputs) if first else blocks.start
        self.part = _part_of(model, blocks, first, last)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map the first stage's inputs, or what the stage in front returned, to smashed data.

        That is ``(batch, tokens, dim)`` without tokens that no later stage reads: deep prompts,
        behind the last block all but the pooled tokens. The last stage returns logits
        ``(batch, num_classes)``.
        """
        tokens = self.part.embed(inputs) if self.embeds else inputs
        tokens = self.part.through_blocks(tokens, self.entry)
        return self.part.classify(self.part.pool(tokens)) if self.last else tokens


class SplitStage(lightning.LightningModule):
    """Train the tunables of one stage in place; they must not be another thread's too.

    A pipeline makes the gradients: it sets `run_batch`, which accumulates those of a batch of so
    many samples. The last stage gets the labels ``(n,)`` of all that it trains on.
    """

    def __init__(self, stage: Stage, config: TrainConfig, labels: Tensor | None = None) -> None:
        super().__init__()
        # Lightning would call backward once a batch; here it is called once a micro-batch.
        self.automatic_optimization = False
        self.stage, self.config = stage, config
        self.loss_terms = Loss.of(config, labels, stage.part)
        self.run_batch: Callable[[int], None] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the stage, see `Stage.forward`."""
        return self.stage(inputs)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the last stage's logits, a scalar."""
        return self.loss_terms.of_batch(logits, labels)

    def training_step(self, size: int, batch_idx: int) -> None:
        """Train on a batch of `size` samples that the pipeline brings."""
        if self.run_batch is None:
            raise RuntimeError("a SplitStage trains inside run_stage: it needs its neighbours")
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        self.run_batch(size)
        # The proximal term is a sum over tunables, so that a stage needs no neighbour for its part.
        if (proximal := self.loss_terms.proximal(self.stage.part)) is not None:
            proximal.backward()
        optimizer.step()
        if (schedule := cast(LRScheduler | None, self.lr_schedulers())) is not None:
            schedule.step()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser of this stage's tunables; nothing where there are none."""
        tunables = dict(named_tunables(self.stage.part))
        return configured_optimizer(tunables, self.config, self.trainer) if tunables else None


def _part_of(model: PromptedViT, blocks: range, first: bool, last: bool) -> PromptedViT:
    """Return `model` without what the stage has not; what is left is shared."""
    backbone = model.backbone
    own = {
        name
        for name, _ in [*backbone.named_parameters(recurse=False), *backbone.named_children()]
        if name == ROTARY or (last if name in TAIL else first)
    }
    part = _copy_with(model, set())
    part.backbone = _copy_with(backbone, own)
    named = {str(index): backbone.blocks[index] for index in blocks}
    part.backbone.blocks = nn.Sequential(OrderedDict(named))
    # Prompts that others hold leave a gap, so that an index means the same in every stage.
    part.prompts = nn.ParameterList(
        prompts if index in blocks else None for index, prompts in enumerate(model.prompts)
    )
    if last:
        part.head = model.head
    return part


def _copy_with(module: ModuleT, names: set[str]) -> ModuleT:
    """Return a shallow copy of `module` that has only these of its parameters and children."""
    part = copy.copy(module)
    part._parameters = {n: p for n, p in module._parameters.items() if n in names or p is None}
    part._modules = {n: m for n, m in module._modules.items() if n in names or m is None}
    return part
