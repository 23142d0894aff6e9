"""The air between nodes at street level, the same both ways and for one seed at any time."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from mfd_flower.network.fields import Field, Fields, Floats
from mfd_flower.network.path_loss import STREET_M, street_loss_db
from mfd_flower.network.tr37885 import SHADOWING_DB, SHADOWING_M, blocked_db, urban_db, urban_sight

AIR = 1
"""Purpose of these seeds, unlike those of a world."""


class StreetAir:
    """Gains between places of an urban street, 3GPP TR 37.885; fields are asked at the middle.

    Parameters
    ----------
    carrier_hz : float
    sight_m : float
        Distance over which it is as good as forgotten who saw whom.
    seed : int
        Draws line of sight and shadowing.
    """

    def __init__(self, carrier_hz: float, sight_m: float, seed: int) -> None:
        street_loss_db("urban", STREET_M[0], carrier_hz)  # Its errors, once and not at each asking.
        self._carrier_hz = np.array(carrier_hz)
        lengths_m = sight_m, SHADOWING_M["urban"]
        self._fields = Fields([Field(far, (seed, AIR, n)) for n, far in enumerate(lengths_m)])

    def gains_db(self, ones_m: Floats, others_m: Floats) -> Floats:
        """Return minus path loss and shadowing between places ``(..., 2)``, which broadcast.

        Nearer or farther than the table goes counts as its nearest or farthest.
        """
        way, middle = ones_m - others_m, (ones_m + others_m) / 2
        far = np.clip(np.hypot(way[..., 0], way[..., 1]), *STREET_M)
        values = self._fields.at(middle)
        sight, shadowing = values[..., 0], values[..., 1]
        sees = ndtr(sight) < urban_sight(far)
        clear_db = urban_db(far, self._carrier_hz)
        hidden_db = np.maximum(clear_db, blocked_db(far, self._carrier_hz))
        spread = np.where(sees, *SHADOWING_DB)
        return -np.where(sees, clear_db, hidden_db) - spread * shadowing
