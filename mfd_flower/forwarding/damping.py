"""How much of its update a node passes on: less as the walk goes on, less where labels are skewed.

A walk without damping ends where its last nodes pull it; a share that falls with the hops is the
step size that stochastic approximation lets fall (Robbins and Monro 1951), taken on the update of a
whole visit and not on those of its batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from mfd_flower.checks import ConfigError
from mfd_flower.routing import kl_divergence


@dataclass(frozen=True)
class Damping:
    """A share from 0 to 1 for each hop.

    Attributes
    ----------
    start : float
        Share at the first hop, above 0.
    end : float
        Share after `tours` tours, above 0, reached on a straight line.
    tours : float
        Tours (as many hops as nodes) over which the share changes; with 0 it is `end` from the
        first hop on.
    skew : float
        Nats of divergence between a node's labels and those the walk has seen, times this, damp the
        update further, to ``exp(-skew * divergence)`` of it.

    Raises
    ------
    ConfigError
        If a value is outside of these.
    """

    start: float = 1.0
    end: float = 1.0
    tours: float = 2.0
    skew: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("damping_start", self.start), ("damping_end", self.end)):
            if not 0 < share <= 1:
                raise ConfigError(f"options.{name}", share, "must be above 0 and at most 1")
        for name, number in (("damping_tours", self.tours), ("damping_skew", self.skew)):
            if not 0 <= number < math.inf:
                raise ConfigError(f"options.{name}", number, "must be at least 0 and finite")

    def at(self, hop: int, nodes: int) -> float:
        """Return the share of hop `hop`, from 1, whatever its labels are."""
        span = self.tours * nodes
        done = min(1.0, (hop - 1) / span) if span > 0 else 1.0
        return self.start + (self.end - self.start) * done

    def of_labels(self, label_counts: ArrayLike, seen: ArrayLike) -> float:
        """Return the share that is left by how far a node's labels are from the seen mix."""
        return math.exp(-self.skew * kl_divergence(label_counts, seen)) if self.skew else 1.0
