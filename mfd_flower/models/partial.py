r"""How much of a model a node updates, and which part (whitepaper, section 2.6).

The node's budget follows from its link, its compute and its data. Within it go the tunables with
the largest entropy of their local gradient, the parameters most tied to local data, or those that
were updated least recently. A module here is one tunable tensor, which is also what a packet dates
and digests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mfd_flower.data.federation import Samples
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.tunables import named_tunables

SELECTIONS = ("all", "entropy", "least-recent")
ENTROPY_BATCH = 16
ENTROPY_BATCHES = 4
TINY = 1e-24
"""Added to a mean square before its logarithm, for a gradient that is zero."""


def update_share(
    most: float, full_bytes: int, link_bps: float, compute_s: float, visit_s: float
) -> float:
    r"""Return the share of the tunables that a node updates, above 0 and at most `most`.

    What is updated has to travel on, so that a visit ends in time only if

    .. math:: \text{compute\_s} + 8 \cdot \text{share} \cdot \text{full\_bytes} / \text{link\_bps}
        \le \text{visit\_s}.

    Parameters
    ----------
    most : float
        Upper bound, from 0 to 1.
    full_bytes : int
        Size of all tunables as they travel.
    link_bps : float
        Rate of the link to the next hop.
    compute_s : float
        Seconds that the local update takes, which grow with the node's data.
    visit_s : float
        Seconds that a visit may take, transfer included; 0 for no limit.
    """
    if visit_s == 0:
        return most
    left = max(0.0, visit_s - compute_s) * link_bps / (8 * full_bytes)
    return min(most, left)


def selected(scores: Mapping[str, float], sizes: Mapping[str, int], share: float) -> set[str]:
    """Return the tunables of the highest scores whose values are `share` of all, at least one.

    Parameters
    ----------
    scores : mapping of str to float
        Ties fall to the smaller tunable, then to the first name.
    sizes : mapping of str to int
        Values of each tunable.
    share : float
        From 0 to 1. A tunable that does not fit any more is passed over for a smaller one.
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
    model: PromptedViT, samples: Samples, stage: str = "images", log_prior: Tensor | None = None
) -> dict[str, float]:
    r"""Return the differential entropy of each tunable's local gradient, in nats a value.

    .. math:: h = \tfrac12 \ln\left(2 \pi e\, \overline{g^2}\right)

    the entropy of a Gaussian (Cover and Thomas, *Elements of Information Theory*, theorem 8.4.1)
    whose variance is the mean squared gradient of up to 4 batches: the diagonal empirical
    Fisher information, by which FISH masks choose parameters (Sung et al. 2021, arXiv 2111.09839,
    section 3.1), averaged over the tunable. Nothing is trained.

    Parameters
    ----------
    model : PromptedViT
        Holds the arriving tunables.
    samples : Samples
        Local data, its inputs at `stage`; the first 64 are used.
    stage : str
        See `PromptedViT.frozen_stage`.
    log_prior : Tensor, optional
        Added to the logits, as in training, ``(num_classes,)``.
    """
    named = dict(named_tunables(model))
    squares = dict.fromkeys(named, 0.0)
    parts = list(
        zip(samples.inputs.split(ENTROPY_BATCH), samples.labels.split(ENTROPY_BATCH), strict=True)
    )[:ENTROPY_BATCHES]
    model.eval()
    for inputs, labels in parts:
        logits = model.forward_from(stage, inputs)
        if log_prior is not None:
            logits = logits + log_prior
        loss = F.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(named.values()))
        for name, gradient in zip(named, gradients, strict=True):
            squares[name] += float(gradient.square().mean()) / len(parts)
    constant = 2 * math.pi * math.e
    return {name: 0.5 * math.log(constant * (square + TINY)) for name, square in squares.items()}


def idle_hops(names: Mapping[str, int], updated: Mapping[str, int], hop: int) -> dict[str, float]:
    """Return the hops since each tunable was last updated, for the choice of the least recent.

    Parameters
    ----------
    names : mapping of str to int
        Every tunable, with its size.
    updated : mapping of str to int
        Number of the update at which it last changed, as a packet's header has it.
    hop : int
        Number of this update.
    """
    return {name: float(hop - updated.get(name, 0)) for name in names}
