r"""The loss of a local update: one definition for training, stages of a split, gradients, metrics.

.. math:: \mathrm{CE}(f(x) + \tau \ln p,\, y) + \beta s\, \mathrm{KL}_{\neq y}(f_0(x) \| f(x))
    + \tfrac{\mu}{2} \lVert w - w_0 \rVert^2

with :math:`p` the label shares of the node, :math:`s` their skew, :math:`f_0` and :math:`w_0` the
model that arrived. :math:`\tau, \beta, \mu` are `logit_adjustment`, `distillation`, `proximal_mu`.
With a teacher, another model :math:`g`, it is

.. math:: (1 - \lambda)\, \mathrm{CE}(f(x) + \tau \ln p,\, y)
    + \lambda T^2\, \mathrm{KL}(\sigma(g(x) / T) \| \sigma(f(x) / T))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mfd_flower.config import TrainConfig
from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.tunables import named_tunables
from mfd_flower.models.tuned import TunedModel

ENTROPY_BATCH = 16
ENTROPY_BATCHES = 4
TINY = 1e-24
"""Added to a mean square before its logarithm, for a gradient that is zero."""


@dataclass(frozen=True)
class Teacher:
    """Another model, whatever its kind, that a model learns from on a node's data.

    Hinton et al. 2015, *Distilling the knowledge in a neural network*, section 2 (arXiv
    1503.02531).
    """

    logits: Tensor
    """On the samples that are trained on, ``(n, num_classes)``."""
    weight: float = 0.9
    r""":math:`\lambda`; as Zagoruyko and Komodakis 2017 (arXiv 1612.03928, section 4.1) have it."""
    temperature: float = 4.0
    """Of both models' probabilities; from there too."""


@dataclass(frozen=True)
class Anchors:
    """Where a model's features of each class are to lie (Tan et al. 2022, arXiv 2105.00243)."""

    means: Tensor
    """``(num_classes, directions)``."""
    there: Tensor
    """Which classes have one, ``(num_classes,)``."""
    signs: Tensor
    """What brings features there, ``(features, directions)``."""
    weight: float = 1.0

    def distance(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean squared distance of a batch's ``(batch, features)``, a scalar.

        Samples of a class without an anchor count as being there.
        """
        device = features.device
        apart = features.float() @ self.signs.to(device) - self.means.to(device)[labels]
        return self.weight * (apart.square().mean(1) * self.there.to(device)[labels]).mean()


@dataclass(frozen=True)
class Loss:
    """The terms of a loss; without any it is the mean cross-entropy."""

    adjustment: Tensor | None = None
    r"""Added to the logits, :math:`\tau \ln p`, ``(num_classes,)``, so that a model is not paid for
    repeating the local label mix (Menon et al. 2021, equation 10, arXiv 2007.07314)."""
    distillation: float = 0.0
    r"""Weight :math:`\beta s` of `not_true_divergence`."""
    taught: float = 0.0
    r"""Weight :math:`\lambda` of a teacher that is another model."""
    temperature: float = 1.0
    """At which they are compared."""
    proximal_mu: float = 0.0
    arrived: Mapping[str, Tensor] = field(default_factory=dict)
    """Tunables that the proximal term pulls to (FedProx, Li et al. 2020, arXiv 1812.06127)."""
    anchors: Anchors | None = None

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        labels: Tensor | None,
        model: TunedModel,
        teacher: Teacher | None = None,
        anchors: Anchors | None = None,
    ) -> Self:
        """Return the loss of updating the arriving `model` on samples of these labels, ``(n,)``.

        Where its head is in another stage there are no labels, and only the proximal term is left.
        A `teacher` stands in for what arrived.
        """
        adjustment, distillation = None, 0.0
        if labels is not None:
            num_classes = model.head.out_features
            if config.logit_adjustment:
                # Half a sample more of each class keeps the logarithm finite.
                counts = torch.bincount(labels, minlength=num_classes).float() + 0.5
                prior = config.logit_adjustment * (counts / counts.sum()).log()
                adjustment = prior.to(model.head.weight.device)
            if teacher is None:
                distillation = config.distillation * label_skew(labels, num_classes)
        named = named_tunables(model) if config.proximal_mu else ()
        arrived = {name: p.detach().clone() for name, p in named}
        taught = (0.0, 1.0) if teacher is None else (teacher.weight, teacher.temperature)
        return cls(adjustment, distillation, *taught, config.proximal_mu, arrived, anchors)

    def on(
        self,
        model: TunedModel,
        stage: str,
        inputs: Tensor,
        labels: Tensor,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a model on a batch whose inputs are at `stage`, a scalar."""
        features = model.features_from(stage, inputs)
        loss = self.of_batch(model.classify(features), labels, teacher)
        if self.anchors is not None:
            loss = loss + self.anchors.distance(features, labels)
        proximal = self.proximal(model)
        return loss if proximal is None else loss + proximal

    def of_batch(self, logits: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Return a batch's terms; logits, the arriving model's too, are ``(batch, classes)``."""
        loss = self.cross_entropy(logits, labels)
        if teacher is None:
            return loss
        if self.taught:
            soft = soft_divergence(logits, teacher, self.temperature)
            return (1 - self.taught) * loss + self.taught * soft
        return loss + self.distillation * not_true_divergence(logits, teacher, labels)

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Return the first term: a scalar, or ``(batch,)`` without reduction (``none``)."""
        adjusted = logits
        if self.adjustment is not None:
            adjusted = logits + self.adjustment.to(logits.device)
        return F.cross_entropy(adjusted, labels, reduction=reduction)

    def proximal(self, model: TunedModel) -> Tensor | None:
        """Return the term that the tunables decide, a scalar; None if there is none."""
        if not self.arrived:
            return None
        pairs = [(p, self.arrived[name].to(p.device)) for name, p in named_tunables(model)]
        squares = ((p - arrived).square().sum() for p, arrived in pairs)
        return 0.5 * self.proximal_mu * sum(squares, torch.zeros((), device=pairs[0][0].device))


def label_skew(labels: Tensor, num_classes: int) -> float:
    """Return how uneven labels are, from 0 (all alike) to 1 (one class): ``1 - H(p) / ln C``."""
    if num_classes < 2:
        return 0.0
    counts = torch.bincount(labels, minlength=num_classes).double()
    entropy = torch.distributions.Categorical(probs=counts).entropy()
    return float(1 - entropy / math.log(num_classes))


def soft_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    r"""Return :math:`T^2 \mathrm{KL}(\sigma(g / T) \| \sigma(f / T))`, the mean over a batch.

    Logits are ``(batch, num_classes)``.
    """
    student, teacher = (
        F.log_softmax(values.float() / temperature, dim=1) for values in (logits, teacher_logits)
    )
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def not_true_divergence(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the divergence from the teacher over all classes but the true one, a scalar.

    What the arriving model thinks of the other classes is what local data makes it forget (Lee et
    al. 2022, FedNTD, equation 4, arXiv 2106.03097, at temperature 1). Shapes as in `Loss.of_batch`.
    """
    # Without a mask as an index, whose result has a shape that depends on values: it makes an
    # accelerator wait, and a step's cost could not be counted without computing the step.
    before = torch.arange(logits.shape[1], device=labels.device) < labels[:, None]
    student, teacher = (
        F.log_softmax(torch.where(before[:, :-1], values[:, :-1], values[:, 1:]), dim=1)
        for values in (logits, teacher_logits)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def gradient_entropy(
    model: TunedModel, samples: Samples, loss: Loss, stage: str = "images"
) -> dict[str, float]:
    r"""Return the differential entropy of each tunable's local gradient, in nats a value.

    .. math:: h = \tfrac12 \ln\left(2 \pi e\, \overline{g^2}\right)

    the entropy of a Gaussian (Cover and Thomas, *Elements of Information Theory*, theorem 8.4.1)
    whose variance is the mean squared gradient of the training loss over up to 4 batches: the
    diagonal empirical Fisher information, by which FISH masks choose parameters (Sung et al. 2021,
    arXiv 2111.09839, section 3.1), averaged over the tunable. `model` holds the arriving tunables,
    where distillation and the proximal term have no gradient; nothing is trained.
    """
    named = dict(named_tunables(model))
    squares = dict.fromkeys(named, 0.0)
    batches = list(itertools.islice(Batches(samples, ENTROPY_BATCH), ENTROPY_BATCHES))
    model.eval()
    device = model.head.weight.device
    for inputs, labels in batches:
        batch_loss = loss.of_batch(model.forward_from(stage, inputs.to(device)), labels.to(device))
        gradients = torch.autograd.grad(batch_loss, list(named.values()))
        for name, gradient in zip(named, gradients, strict=True):
            squares[name] += float(gradient.square().mean()) / len(batches)
    constant = 2 * math.pi * math.e
    return {name: 0.5 * math.log(constant * (square + TINY)) for name, square in squares.items()}
