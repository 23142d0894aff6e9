"""The updates that were accepted before, in a form small enough to travel with a packet.

Of each update only the norm is remembered, of all together only a running direction, both as
receivers measured them. Vectors are kept as sketches: a linear map under which cosines stay about
the same (count sketch, Charikar et al. 2002), so that a history is as long for a large model as for
a small one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.checks import Bounds, ConfigError, Length, build

WINDOW = 64
"""Accepted updates whose norms are remembered."""
SKETCH_SIZE = 128
"""A cosine between sketches is off by about one over the root of this: 0.09."""
DIRECTION_DECAY = 0.8
"""Weight of the past in the running direction, which so spans about five updates."""
LARGEST_LOG_NORM = 100.0


class AuditError(ConfigError):
    """A field from another node that is not acceptable: its name, its value, what is accepted."""


@dataclass(frozen=True, eq=False)
class Update:
    """What a hop changed."""

    norm: float
    """Euclidean norm, over the share of its update that the hop was to pass on."""
    direction: NDArray[np.float64]
    """Sketch of the update, scaled to length 1, ``(SKETCH_SIZE,)``; zeros if nothing changed."""

    @classmethod
    def between(
        cls, parent: Mapping[str, Tensor], arrived: Mapping[str, Tensor], share: float = 1.0
    ) -> Self:
        """Measure the update from `parent` to `arrived`, which have the same names and shapes.

        `share` is the hop's damping by the walk's settings, above 0 and at most 1. Norms before
        damping are alike over a walk, and a node that does not damp stands out.
        """
        sketch, square = np.zeros(SKETCH_SIZE), 0.0
        for name in sorted(arrived):
            change = (arrived[name].double() - parent[name].double()).reshape(-1)
            square += float(change.square().sum())
            sketch += _sketch(name, change)
        length = float(np.linalg.norm(sketch))
        direction = sketch / length if 0 < length < math.inf else np.zeros(SKETCH_SIZE)
        return cls(math.sqrt(square) / share, direction)


@dataclass(frozen=True)
class History:
    """Accepted updates, the newest last."""

    log_norms: Annotated[
        tuple[Annotated[float, Bounds(-LARGEST_LOG_NORM, LARGEST_LOG_NORM)], ...], Length(WINDOW)
    ] = ()
    """Natural logs of their norms."""
    direction: Annotated[tuple[Annotated[float, Bounds(-1.0, 1.0)], ...], Length(SKETCH_SIZE)] = ()
    """Running mean of their directions, `SKETCH_SIZE` long; empty before the first."""

    def after(self, update: Update) -> History:
        """Return the history with an update that was accepted."""
        if not 0 < update.norm < math.inf:
            return self
        past = np.asarray(self.direction or (0.0,) * SKETCH_SIZE)
        mean = DIRECTION_DECAY * past + (1 - DIRECTION_DECAY) * update.direction
        log_norm = min(LARGEST_LOG_NORM, max(-LARGEST_LOG_NORM, math.log(update.norm)))
        return History((*self.log_norms, log_norm)[-WINDOW:], tuple(mean.tolist()))

    def cosine(self, update: Update) -> float:
        """Return the cosine of an update to the running direction; 0 if there is none."""
        past = np.asarray(self.direction)
        length = float(np.linalg.norm(past))
        return float(past @ update.direction) / length if length > 0 else 0.0

    def fields(self) -> dict[str, list[float]]:
        """Return lists of numbers, as Flower's records carry them."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of `fields`, believing nothing.

        `AuditError` if a field is missing, too long, or holds anything but moderate numbers.
        """
        told = {name: fields.get(name) for name in ("log_norms", "direction")}
        history: Self = build(cls, told, "history.", AuditError)
        if len(history.direction) != (SKETCH_SIZE if history.log_norms else 0):
            accepted = f"{SKETCH_SIZE} numbers beside norms, none without"
            raise AuditError("history.direction", len(history.direction), accepted)
        return history


def _sketch(name: str, values: Tensor) -> NDArray[np.float64]:
    """Add up `values` (flat) in `SKETCH_SIZE` places, place and sign drawn from the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).integers(2 * SKETCH_SIZE, size=len(values))
    signed = values.detach().cpu().numpy() * np.where(drawn < SKETCH_SIZE, 1.0, -1.0)
    sums = np.bincount(drawn % SKETCH_SIZE, weights=signed, minlength=SKETCH_SIZE)
    return sums.astype(np.float64)
