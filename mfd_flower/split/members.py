"""What a cluster planner knows of a node, and what the node's data is worth to a cluster.

GaisNet (arXiv 2401.02668), sections II and V: only the first member of a cluster feeds samples in,
and accuracy follows the classes that they cover (Table III).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mfd_flower.routing.interest import HALF_SAMPLES


@dataclass(frozen=True)
class Member:
    """What a planner knows of a node.

    Attributes
    ----------
    address : str
        Such as ``n3``.
    flops_per_s, memory_bytes : float
        Compute rate, and memory for its stage.
    samples : int
        Samples it can feed in; with none it is not put first.
    label_counts : tuple of float
        Samples of each class; empty if not told, which counts as even.
    """

    address: str
    flops_per_s: float
    memory_bytes: float
    samples: int
    label_counts: tuple[float, ...] = ()


def data_value(member: Member) -> float:
    r"""Return what a member's samples are worth to a cluster that it feeds, from 0 to 1.

    .. math::

        v = \frac{n}{n + n_0} \cdot \frac{e^{H(p)}}{C}

    with :math:`n` its samples, :math:`n_0` = 100, :math:`H(p)` the entropy of its label shares in
    nats and :math:`C` the number of classes. The second factor is the share of classes it holds if
    it holds them evenly; GaisNet's Table III shows accuracy to follow that.
    """
    counts = np.asarray(member.label_counts, dtype=float)
    amount = member.samples / (member.samples + HALF_SAMPLES)
    if not counts.any():
        return amount
    shares = counts[counts > 0] / counts.sum()
    return float(amount * math.exp(-(shares @ np.log(shares))) / counts.size)
