"""FedCOF: a head from covariances that nobody sends.

Goswami et al. 2025, *Covariances for Free* (arXiv 2412.14326): how class means of few samples
scatter from node to node tells the covariance of the samples. Nodes upload what `class_means` has
them upload, and a ridge-like head comes of it. With few nodes a class the estimate is of low rank,
and one class a node has nothing to scatter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import bounded
from mfd_flower.models.closed_form import Head, fedcof
from strategies.class_means import ClassMeans, ClassMeansOptions


@dataclass(frozen=True)
class FedCOFOptions(ClassMeansOptions):
    """What is summed, and how far the covariances are drawn towards a multiple of the identity."""

    shrinkage: float = bounded(1.0, 0.0)
    """Added to each variance, as a share of a standardised feature's."""


class FedCOF(ClassMeans):
    """Estimate, and solve."""

    Options: ClassVar = FedCOFOptions
    options: FedCOFOptions

    def head(self, parts: list[NDArray[np.int64]]) -> Head:
        """Return the head that the class sums of nodes make."""
        return fedcof(parts, self.options.shrinkage / self.options.features.step**2)
