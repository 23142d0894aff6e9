"""A node's shard as Lightning's data module, to tune it with a Trainer of one's own."""

from __future__ import annotations

import lightning
import torch
from torch import Tensor

from mfd_flower.checks import Bounds
from mfd_flower.config import RunConfig
from mfd_flower.data.samples import Batches
from mfd_flower.models.residents import held_out_by, shard

EVALUATION_BATCH = 250


class ShardData(lightning.LightningDataModule):
    """What `node` of a run trains on and what it holds out (`data.validation`), and the test set.

    Inputs are at the frozen stage of the run's model (`PromptedViT.frozen_stage`), which is the
    `stage` of a `Classifier` that trains on them. The run's seed decides the order of the samples.
    """

    def __init__(self, run: RunConfig, node: int) -> None:
        super().__init__()
        self.run, self.node = run, Bounds(0, run.data.nodes - 1).whole("node", node)
        self.order = torch.Generator().manual_seed(run.seed)

    @property
    def labels(self) -> Tensor:
        """Labels of all that is trained on, ``(n,)``: a loss may depend on their shares."""
        return shard(self.run, self.node).labels

    def train_dataloader(self) -> Batches:
        """Return the batches to train on, in another order each epoch."""
        config = self.run.train
        order = self.order if config.shuffle else None
        return Batches(shard(self.run, self.node), config.batch_size, order)

    def val_dataloader(self) -> Batches | list[Batches]:
        """Return the batches that the node holds out, none if it holds out nothing."""
        held_out = held_out_by(self.run, self.node)
        return Batches(held_out, EVALUATION_BATCH) if len(held_out) else []

    def test_dataloader(self) -> Batches:
        """Return the batches of the test set, which no node has."""
        return Batches(shard(self.run, "test"), EVALUATION_BATCH)

    def predict_dataloader(self) -> Batches:
        """Return the test set's batches."""
        return self.test_dataloader()
