"""A node of the federation as its handlers see it: address, shard, model, local update."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Context
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mfd_flower.attacks import poisoned_update
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.data import Samples, load_federation
from mfd_flower.models import build_model, evaluate, fit, get_tunables
from mfd_flower.models import set_tunables as load_tunables
from mfd_flower.models.learner import FitResult, Metrics, fit_flops, logits_of
from mfd_flower.models.partial import gradient_entropy
from mfd_flower.network.clock import now_s
from mfd_flower.network.world import View, world_of
from mfd_flower.shards import model_for, shard
from mfd_flower.threat import UPDATE, attack_of, malicious_nodes, poisoned_shard


@dataclass
class CostReport:
    """What the fits of one message cost."""

    fits: int = 0
    flops: float = 0.0
    peak_bytes: int = 0


current_report: ContextVar[CostReport | None] = ContextVar("current_report", default=None)


@functools.lru_cache(maxsize=256)
def run_config_of(items: tuple[tuple[str, str | int | float | bool], ...]) -> RunConfig:
    """Rebuild the settings of a run from Flower's run config, once a process."""
    return RunConfig.from_flat(dict(items))


def initial_tunables(run: RunConfig) -> Mapping[str, Tensor]:
    """Return the tunables that a run begins with; any node can make them from the settings."""
    num_classes = load_federation(run.data, run.seed).num_classes
    return _initial_tunables(run.model, num_classes, run.seed)


@functools.lru_cache(maxsize=8)
def _initial_tunables(config: ModelConfig, num_classes: int, seed: int) -> Mapping[str, Tensor]:
    return MappingProxyType(get_tunables(build_model(config, num_classes, seed)))


def evaluate_tunables(
    run: RunConfig, tensors: Mapping[str, Tensor], samples: Samples | None = None
) -> Metrics:
    """Measure tunables on the held-out test set of a run, or on other samples."""
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    network = model_for(run.model, load_federation(run.data, run.seed).num_classes, run.seed)
    load_tunables(network, tensors)
    test = shard(run.data, run.model, run.seed, None) if samples is None else samples
    return evaluate(network, test, stage=network.frozen_stage(), accelerator=run.train.accelerator)


@dataclass(frozen=True)
class Node:
    """One participant.

    Attributes
    ----------
    run : RunConfig
        Settings of the run.
    index : int
        Flower's partition id; the address is ``n<index>``.
    """

    run: RunConfig
    index: int
    address: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", f"n{self.index}")

    @classmethod
    def of(cls, context: Context) -> Node:
        """Return the node that a handler is called on."""
        run = run_config_of(tuple(sorted(context.run_config.items())))
        return cls(run, int(context.node_config["partition-id"]))

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return load_federation(self.run.data, self.run.seed).num_classes

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """Samples of each class on the node, ``(num_classes,)``."""
        return load_federation(self.run.data, self.run.seed).label_counts(self.index)

    @property
    def samples(self) -> Samples:
        """Shard of this node, its inputs at the model's frozen stage."""
        return shard(self.run.data, self.run.model, self.run.seed, self.index)

    def world_view(self) -> View:
        """Return what the node can know of the world, as the message that it handles arrived."""
        world = world_of(self.run.network, self.run.data.nodes, self.run.seed)
        return world.seen_by(self.address, now_s.get())

    def rng(self, step: int, purpose: int = 0) -> np.random.Generator:
        """Return randomness that depends on (seed, node, step, purpose) and nothing else."""
        return np.random.default_rng([self.run.seed, self.index, step, purpose])

    def fit(
        self,
        tensors: Mapping[str, Tensor],
        step: int,
        *,
        samples: Samples | None = None,
        epochs: int | None = None,
        proximal_mu: float | None = None,
        optimizer_state: Mapping[str, Tensor] | None = None,
        only: Collection[str] | None = None,
    ) -> tuple[dict[str, Tensor], FitResult]:
        """Do one local update.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            Arriving tunables.
        step : int
            Round or hop; with the seed and the node it decides all randomness.
        samples : Samples, optional
            Train on these instead of the node's shard.
        epochs, proximal_mu : int and float, optional
            Override the settings `local_epochs` and `proximal_mu`.
        optimizer_state : mapping, optional
            Where the optimiser starts from.
        only : collection of str, optional
            Tunables to train; all of them without it.

        Returns
        -------
        tensors : dict of str to Tensor
            Trained tunables.
        result : FitResult
            Loss and costs.
        """
        config = self.run.train
        if proximal_mu is not None:
            config = replace(config, proximal_mu=proximal_mu)
        if epochs is not None:
            config = replace(config, local_epochs=epochs)
        if config.threads:
            torch.set_num_threads(config.threads)
        attack = attack_of(self.run) if self.index in malicious_nodes(self.run) else None
        data = samples
        if data is None:
            data = poisoned_shard(self.run, self.index) if attack else self.samples
        network = model_for(self.run.model, self.num_classes, self.run.seed)
        load_tunables(network, tensors)
        result = fit(
            network,
            data,
            config,
            seed=int(self.rng(step).integers(2**62)),
            stage=network.frozen_stage(),
            log_prior=self.log_prior(data),
            optimizer_state=optimizer_state,
            only=only,
        )
        if (report := current_report.get()) is not None:
            report.fits += 1
            report.flops += result.flops
            report.peak_bytes = max(report.peak_bytes, result.peak_bytes)
        trained = get_tunables(network)
        if attack is not None:
            rng, old = self.rng(step, UPDATE), initial_tunables(self.run)
            trained = poisoned_update(tensors, trained, attack, rng, old)
        return trained, result

    def fit_flops(self) -> float:
        """Return the floating point operations of one local update."""
        network = model_for(self.run.model, self.num_classes, self.run.seed)
        return fit_flops(network, self.samples, self.run.train, network.frozen_stage())

    def gradient_entropy(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """Return how much each tunable is tied to the node's data, see `partial`."""
        network = model_for(self.run.model, self.num_classes, self.run.seed)
        load_tunables(network, tensors)
        prior = self.log_prior(self.samples)
        with FlopCounterMode(display=False) as counter:
            entropy = gradient_entropy(network, self.samples, network.frozen_stage(), prior)
        if (report := current_report.get()) is not None:
            report.flops += counter.get_total_flops()
        return entropy

    def log_prior(self, samples: Samples) -> Tensor | None:
        """Return what training adds to the logits, None if the settings ask for nothing."""
        if not self.run.train.logit_adjustment:
            return None
        return smoothed_log_prior(samples.labels, self.num_classes)

    def evaluate(self, tensors: Mapping[str, Tensor]) -> Metrics:
        """Measure tunables on this node's own shard."""
        network = model_for(self.run.model, self.num_classes, self.run.seed)
        load_tunables(network, tensors)
        return evaluate(network, self.samples, stage=network.frozen_stage())

    def sample_losses(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Measure tunables sample by sample on this node's own shard.

        Returns
        -------
        losses : ndarray
            Cross-entropy in nats, ``(n,)``.
        correct : ndarray of bool
            Whether the sample was classified right, ``(n,)``.
        """
        if self.run.train.threads:
            torch.set_num_threads(self.run.train.threads)
        network = model_for(self.run.model, self.num_classes, self.run.seed)
        load_tunables(network, tensors)
        with FlopCounterMode(display=False) as counter:
            logits = logits_of(network, self.samples, network.frozen_stage()).double()
        if (report := current_report.get()) is not None:
            report.flops += counter.get_total_flops()
        losses = F.cross_entropy(logits, self.samples.labels, reduction="none")
        return losses.numpy(), (logits.argmax(1) == self.samples.labels).numpy()


def smoothed_log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Return the log label shares with half a sample added to each class, ``(num_classes,)``."""
    counts = torch.bincount(labels, minlength=num_classes).float() + 0.5
    return (counts / counts.sum()).log()
