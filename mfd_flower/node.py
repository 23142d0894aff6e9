"""A node of the federation as its handlers see it: address, shard, model, local update."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from flwr.app import Context
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.adversary.attackers import UPDATE, attack_by, training_samples
from mfd_flower.adversary.attacks import Update
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.cost_report import current_report, report_flops
from mfd_flower.data import Samples
from mfd_flower.data.augmentation import process_generators
from mfd_flower.models import TunedModel, build_model, evaluate, fit, get_tunables, set_tunables
from mfd_flower.models.closed_form import Head
from mfd_flower.models.devices import autocast, device_for, held
from mfd_flower.models.directions import directed
from mfd_flower.models.inputs import augmented, federation_of
from mfd_flower.models.loss import Anchors, Loss, Teacher, gradient_entropy
from mfd_flower.models.residents import model_for, shard
from mfd_flower.models.rounded import Rounding, head_inputs, scale_of
from mfd_flower.models.sums import Sums
from mfd_flower.models.training import (
    FitResult,
    Metrics,
    check_memory,
    entropy_flops,
    fit_flops,
    forward_flops,
    logits_of,
)
from mfd_flower.network.clock import now_s
from mfd_flower.network.world import View
from mfd_flower.network.worlds import world_of
from mfd_flower.profiles import own_settings, settings_of
from mfd_flower.routing.sketch import Sketch
from mfd_flower.scaling.quantise import weights_bytes


def initial_tunables(run: RunConfig) -> Mapping[str, Tensor]:
    """Return the tunables that a run begins with; any node can make them from the settings."""
    return _initial_tunables(run.model, federation_of(run).num_classes, run.seed)


@functools.lru_cache(maxsize=8)
def _initial_tunables(config: ModelConfig, num_classes: int, seed: int) -> Mapping[str, Tensor]:
    return MappingProxyType(get_tunables(build_model(config, num_classes, seed)))


def loaded_model(run: RunConfig, tensors: Mapping[str, Tensor]) -> TunedModel:
    """Return this thread's model with these tunables, and the thread as the run wants it."""
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    model = model_for(run)
    set_tunables(model, tensors)
    return model


def evaluate_tunables(
    run: RunConfig, tensors: Mapping[str, Tensor], samples: Samples | None = None
) -> Metrics:
    """Measure tunables on the held-out test set of a run, or on other samples."""
    model = loaded_model(run, tensors)
    test = shard(run, "test") if samples is None else samples
    return evaluate(model, test, stage=model.frozen_stage(), precision=run.train.precision)


def with_head(
    run: RunConfig, tensors: Mapping[str, Tensor], head: Head, rounding: Rounding
) -> dict[str, Tensor]:
    """Return tunables whose head is one that was solved for rounded features."""
    weight, bias = scale_of(run, rounding).unrounded(head)
    return {**tensors, "head.weight": weight, "head.bias": bias}


class OutOfAreaError(ValueError):
    """A packet is for the nodes of an area that this node is not in."""


@dataclass(frozen=True)
class Node:
    """One participant of a run."""

    run: RunConfig
    index: int
    """Flower's partition id."""
    own_run: RunConfig | None = None
    """Settings of the model that it has to itself; None: those of `run`."""

    @classmethod
    def of(cls, context: Context) -> Node:
        """Return the node that a handler is called on."""
        settings = context.run_config
        run, nodes = _run_here(tuple(settings), tuple(settings.values()))
        index = int(context.node_config["partition-id"])
        if index not in nodes:
            shared, own = settings_of(run, index), own_settings(run, index)
            nodes[index] = cls(shared, index, None if own == shared else own)
        return nodes[index]

    @property
    def own(self) -> Node:
        """The same node with the model that is its own, where nodes are unlike."""
        return self if self.own_run is None else Node(self.own_run, self.index)

    @property
    def address(self) -> str:
        """Name by which the others know it."""
        return f"n{self.index}"

    @functools.cached_property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return federation_of(self.run).num_classes

    @functools.cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """Samples of each class on the node, ``(num_classes,)``, read-only."""
        counts = federation_of(self.run).label_counts(self.index)
        counts.flags.writeable = False
        return counts

    @functools.cached_property
    def num_samples(self) -> int:
        """Samples that the node trains on."""
        return len(federation_of(self.run).shares[self.index])

    @functools.cached_property
    def task(self) -> str:
        """What its data are for, see `Federation.task`."""
        return federation_of(self.run).task(self.index)

    @property
    def samples(self) -> Samples:
        """Shard of this node, its inputs at the model's frozen stage."""
        return shard(self.run, self.index)

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
        teacher: Teacher | None = None,
        anchors: Anchors | None = None,
    ) -> tuple[dict[str, Tensor], FitResult]:
        """Do one local update of the arriving tunables; returns the trained ones, loss and costs.

        `step` is the round or hop; with the seed and the node it decides all randomness. `samples`
        replace the node's shard, `epochs` and `proximal_mu` the settings. The optimiser starts from
        `optimizer_state`, ``<tunable>:<slot>``; `only` names the tunables to train, else all are.
        It learns from a `teacher` too, whose logits are of the same samples, and its features are
        drawn to `anchors`.
        """
        config = self.run.train
        if proximal_mu is not None:
            config = replace(config, proximal_mu=proximal_mu)
        if epochs is not None:
            config = replace(config, local_epochs=epochs)
        model = loaded_model(self.run, tensors)
        seed, stage = int(self.rng(step).integers(2**62)), model.frozen_stage()
        # A teacher has seen the images as they are.
        if samples is None and self._augments and teacher is None:
            samples, stage = augmented(self.run, self.index, seed), "images"
        elif samples is None:
            samples = training_samples(self.run, self.index)
        with process_generators if self.run.train.augmentation else nullcontext():
            result = fit(
                model,
                samples,
                config,
                seed=seed,
                stage=stage,
                optimizer_state=optimizer_state,
                only=only,
                trainer=self.run.trainer,
                memory_bytes=self.world_view().device.memory_bytes,
                teacher=teacher,
                anchors=anchors,
            )
        if (report := current_report.get()) is not None:
            report.fits += 1
            report.flops += result.flops
            report.peak_bytes = max(report.peak_bytes, result.peak_bytes)
        trained = get_tunables(model)
        if (on_update := attack_by(self.run, self.index).on_update) is not None:
            old, rng = initial_tunables(self.run), self.rng(step, UPDATE)
            trained = on_update(Update(tensors, trained, old, self.run.threat.scale, rng))
        return trained, result

    def sums(self, tensors: Mapping[str, Tensor], rounding: Rounding, fits: int = 1) -> Sums:
        """Return the sums over this node's samples of what stands in front of the head.

        They count as a local update, what is learnt of the node's data in closed form, unless
        `fits` is 0.
        """
        model, samples = loaded_model(self.run, tensors), training_samples(self.run, self.index)
        weights = weights_bytes(model)
        check_memory(weights, self.world_view().device.memory_bytes)
        whole = scale_of(self.run, rounding).rounded(head_inputs(self.run, model, samples))
        found = Sums.of(whole, samples.labels.numpy(), self.num_classes)
        if (on_sums := attack_by(self.run, self.index).on_sums) is not None:
            found = on_sums(found, self.run.threat.scale, self.rng(0, UPDATE))
        if (report := current_report.get()) is not None:
            stage, cells = model.frozen_stage(), found.gram.size + found.cross.size
            report.fits += fits
            report.flops += 2.0 * len(samples) * cells
            if stage != "features":
                report.flops += forward_flops(model, samples, stage)
            report.peak_bytes = max(report.peak_bytes, weights + whole.nbytes + 16 * cells)
        return found

    def whole_features(
        self, tensors: Mapping[str, Tensor], rounding: Rounding
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the node's own samples as whole numbers ``(n, d)``, and their labels ``(n,)``."""
        model, samples = loaded_model(self.run, tensors), self.samples
        if (stage := model.frozen_stage()) != "features":
            report_flops(forward_flops(model, samples, stage))
        whole = scale_of(self.run, rounding).rounded(head_inputs(self.run, model, samples))
        return whole, samples.labels.numpy()

    def fit_flops(self) -> float:
        """Return the floating point operations of one local update."""
        model = model_for(self.run)
        if self._augments:
            samples, stage = augmented(self.run, self.index, 0), "images"
        else:
            samples, stage = self.samples, model.frozen_stage()
        return fit_flops(model, samples, self.run.train, stage, self.run.trainer)

    @property
    def _augments(self) -> bool:
        """Whether the node trains on augmented images, as all do that do not forge theirs."""
        return bool(self.run.train.augmentation) and not attack_by(self.run, self.index).on_data

    def gradient_entropy(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """Return how much each tunable is tied to the node's data, in nats a value."""
        model, samples = loaded_model(self.run, tensors), self.samples
        loss, precision = Loss.of(self.run.train, samples.labels, model), self.run.train.precision
        device, stage = device_for(self.run.train), model.frozen_stage()
        report_flops(entropy_flops(model, samples, self.run.train, stage))
        with held(device, precision), autocast(device, precision):
            return gradient_entropy(model, samples, loss, stage)

    def evaluate(self, tensors: Mapping[str, Tensor]) -> Metrics:
        """Measure tunables on this node's own shard, which costs it a pass over that."""
        model, samples = loaded_model(self.run, tensors), self.samples
        stage = model.frozen_stage()
        report_flops(forward_flops(model, samples, stage))
        return evaluate(model, samples, stage=stage, precision=self.run.train.precision)

    def logits(self, tensors: Mapping[str, Tensor], samples: Samples | None = None) -> Tensor:
        """Return logits on the node's own samples, or on others, ``(n, num_classes)``, on the CPU.

        Others are at the frozen stage of the node's model.
        """
        model = loaded_model(self.run, tensors)
        samples = self.samples if samples is None else samples
        stage = model.frozen_stage()
        report_flops(forward_flops(model, samples, stage))
        return logits_of(model, samples, stage, self.run.train.precision).cpu()

    def features(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return what the head gets of the node's own samples, ``(n, features)``, on the CPU."""
        model, samples = loaded_model(self.run, tensors), self.samples
        if (stage := model.frozen_stage()) != "features":
            report_flops(forward_flops(model, samples, stage))
        return torch.from_numpy(head_inputs(self.run, model, samples))

    def sample_losses(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return each own sample's cross-entropy in nats and whether it is right, ``(n,)`` each."""
        logits, samples = self.logits(tensors).double(), self.samples
        losses = Loss().cross_entropy(logits, samples.labels, "none")
        return losses.numpy(), (logits.argmax(1) == samples.labels).numpy()

    def sketch(self) -> Sketch:
        """Return the sketch of what the model that all begin with makes of this node's images."""
        model, samples = loaded_model(self.run, initial_tunables(self.run)), self.samples
        found = directed(self.run, model, samples)
        stage, features = model.frozen_stage(), model.head.in_features
        if stage != "features":
            report_flops(forward_flops(model, samples, stage))
        report_flops(2.0 * found.size * (features + found.shape[1]))
        return Sketch.of(found)


@functools.lru_cache(maxsize=8)
def _run_here(
    keys: tuple[str, ...], values: tuple[object, ...]
) -> tuple[RunConfig, dict[int, Node]]:
    """Return the settings that Flower's run config holds, and nodes that were asked for before."""
    return RunConfig.from_flat(dict(zip(keys, values, strict=True))), {}
