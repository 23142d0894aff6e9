r"""How much of a model a node updates, and which part (whitepaper, section 2.6).

The node's budget follows from its link, its compute and its data. Within it go the tunables with
the largest entropy of their local gradient, most tied to local data, or those that were updated
least recently. A module here is one tunable tensor, which is also what a packet dates and digests.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import torch

from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.loss import Loss
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.tunables import named_tunables

ENTROPY_BATCH = 16
ENTROPY_BATCHES = 4
TINY = 1e-24
"""Added to a mean square before its logarithm, for a gradient that is zero."""


def update_share(
    most: float, full_bytes: int, link_bps: float, compute_s: float, visit_s: float
) -> float:
    """Return the share of the tunables that a node updates, from 0 to `most`.

    What is updated has to travel on, so that a visit ends in time only if ``compute_s + 8 * share *
    full_bytes / link_bps <= visit_s``: the local update and the transfer of what it changed, of
    `full_bytes` for all tunables. 0 for `visit_s` is no limit.
    """
    if visit_s == 0:
        return most
    return min(most, max(0.0, visit_s - compute_s) * link_bps / (8 * full_bytes))


def selected(scores: Mapping[str, float], sizes: Mapping[str, int], share: float) -> set[str]:
    """Return the tunables of the highest scores whose values are `share` of all, at least one.

    `sizes` are the values of each tunable. One that does not fit any more is passed over for a
    smaller one; ties fall to the smaller tunable, then to the first name.
    """
    left = share * sum(sizes.values())
    ranked = sorted(scores, key=lambda name: (-scores[name], sizes[name], name))
    taken: set[str] = set()
    for name in ranked:
        if sizes[name] <= left * (1 + 1e-9):
            taken.add(name)
            left -= sizes[name]
    return taken or {ranked[0]}


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


def idle_hops(names: Iterable[str], updated: Mapping[str, int], hop: int) -> dict[str, float]:
    """Return the hops from each tunable's last update, as a packet's header has it, to `hop`."""
    return {name: float(hop - updated.get(name, 0)) for name in names}
