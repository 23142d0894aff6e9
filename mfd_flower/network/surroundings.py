"""What stands around a base station: terminals near each other see the same clusters.

Line of sight, large-scale parameters, and delays, powers and angles of clusters are fields over
the plane (3GPP TR 38.901 v17.0.0, section 7.6.3), drawn by a seed: a site is its fields.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mfd_flower.network.fields import Field, Fields
from mfd_flower.network.multipath import LARGE_SCALE, OF_A_CLUSTER, Air, Rays, multipath
from mfd_flower.network.panel import Floats
from mfd_flower.network.path_loss import sight_probability
from mfd_flower.network.tr38901 import PLACES
from mfd_flower.network.tr38901_spreads import SPREADS

SURROUNDINGS = 21
"""Purpose of these seeds."""
SIGHT, COUPLING = 2, 3
"""What a seed is for, beside the fields with (1) and without line of sight (0)."""


class Surroundings:
    """The air round one base station, the same for one seed."""

    def __init__(self, air: Air, seed: tuple[int, ...]) -> None:
        self._air, self._seed = air, (*seed, SURROUNDINGS)
        self._sight = Field(PLACES[air.scenario].sight_m, (*self._seed, SIGHT))
        self._fields: dict[bool, Fields] = {}

    def sees(self, offsets_m: Floats) -> NDArray[np.bool_]:
        """Return whether terminals ``(users, 2)`` from the base station have line of sight."""
        distance_m = np.linalg.norm(offsets_m, axis=1)
        likely = sight_probability(self._air.scenario, distance_m, self._air.h_ut_m)
        return ndtr(self._sight.at(offsets_m)) < likely

    def rays(self, offsets_m: Floats, sees: bool) -> Rays:
        """Return the rays to terminals that all have line of sight, or all have not."""
        if sees not in self._fields:
            self._fields[sees] = self._of(sees)
        normals = self._fields[sees].at(offsets_m)
        of_clusters = normals[:, LARGE_SCALE:].reshape(len(offsets_m), -1, OF_A_CLUSTER)
        rng = np.random.default_rng([*self._seed, COUPLING])
        return multipath(self._air, offsets_m, sees, normals[:, :LARGE_SCALE], of_clusters, rng)

    def _of(self, sees: bool) -> Fields:
        spreads = SPREADS[self._air.scenario, sees]
        lengths_m = *spreads.correlation_m, *[spreads.cluster_m] * spreads.clusters * OF_A_CLUSTER
        seed = *self._seed, int(sees)
        return Fields([Field(length, (*seed, number)) for number, length in enumerate(lengths_m)])
