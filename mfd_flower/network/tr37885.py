"""Path loss between terminals at street level, as 3GPP TR 37.885 has it for vehicles.

Release 15 (v15.3.0): path loss and shadowing of table 6.2.1-2, probability of line of sight of
table 6.2-1, decorrelation distance of section 6.2.1. Distances in metres between the antennas,
frequencies in Hz; arrays broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SHADOWING_DB = (3.0, 4.0)
"""Standard deviation with line of sight, or a vehicle in it, and behind buildings."""
SHADOWING_M = {"urban": 10.0, "highway": 25.0}


def urban_db(distance_m: Floats, carrier_hz: Floats) -> Floats:
    """Return the loss along a street."""
    return 38.77 + 16.7 * np.log10(distance_m) + 18.2 * np.log10(carrier_hz / 1e9)


def highway_db(distance_m: Floats, carrier_hz: Floats) -> Floats:
    """Return the loss along a highway, which is that of free space."""
    return 32.4 + 20 * np.log10(distance_m) + 20 * np.log10(carrier_hz / 1e9)


def blocked_db(distance_m: Floats, carrier_hz: Floats) -> Floats:
    """Return the loss around the corner of a building."""
    return 36.85 + 30 * np.log10(distance_m) + 18.9 * np.log10(carrier_hz / 1e9)


def urban_sight(distance_m: Floats) -> Floats:
    """Return the probability of line of sight along a street."""
    return np.minimum(1.0, 1.05 * np.exp(-0.0114 * distance_m))


def highway_sight(distance_m: Floats) -> Floats:
    """Return the probability of line of sight along a highway."""
    near = np.minimum(1.0, 2.1013e-6 * distance_m**2 - 0.002 * distance_m + 1.0193)
    return np.where(distance_m <= 475, near, np.maximum(0.0, 0.54 - 0.001 * (distance_m - 475)))
