"""Which part of a model is most tied to local data: the entropy of its local gradient."""

from __future__ import annotations

import itertools
import math

import torch

from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.loss import Loss
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.tunables import named_tunables

ENTROPY_BATCH = 16
ENTROPY_BATCHES = 4
TINY = 1e-24
"""Added to a mean square before its logarithm, for a gradient that is zero."""


def gradient_entropy(
    model: PromptedViT, samples: Samples, loss: Loss, stage: str = "images"
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
    for inputs, labels in batches:
        batch_loss = loss.of_batch(model.forward_from(stage, inputs), labels)
        gradients = torch.autograd.grad(batch_loss, list(named.values()))
        for name, gradient in zip(named, gradients, strict=True):
            squares[name] += float(gradient.square().mean()) / len(batches)
    constant = 2 * math.pi * math.e
    return {name: 0.5 * math.log(constant * (square + TINY)) for name, square in squares.items()}
