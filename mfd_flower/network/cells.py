"""Base stations over a rectangle: what each receives from where, and who is served by whom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mfd_flower.network.fields import Field
from mfd_flower.network.path_loss import CellScenario, path_loss_db, shadowing_db, sight_probability
from mfd_flower.network.tr38901 import PLACES, distance_3d

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
SIGHT, CLEAR, BLOCKED = 0, 1, 2
"""Which of a base station's fields a seed is for."""
AIR = 10
"""Purpose of these seeds, unlike those of a world."""


def lattice_m(width_m: float, height_m: float, distance_m: float) -> Floats:
    """Return sites ``(sites, 2)`` in rows, each in the middle between two of the next row.

    Neighbours are `distance_m` apart. The pattern is centred, and has one site at least.
    """
    row_m = distance_m * np.sqrt(3) / 2
    rows = max(1, int(height_m / row_m))
    wide = max(1, int(width_m / distance_m))
    places = []
    for row in range(rows):
        shift = 0.25 * distance_m * (1 if row % 2 else -1) * (rows > 1)
        x = (np.arange(wide) - (wide - 1) / 2) * distance_m + shift + width_m / 2
        y = np.full(wide, (row - (rows - 1) / 2) * row_m + height_m / 2)
        places.append(np.stack([x, y], axis=1))
    return np.concatenate(places)


class Cells:
    """The air between base stations and terminals, the same for one seed at any time.

    Parameters
    ----------
    scenario : {"umi", "uma", "rma", "inh"}
        Of 3GPP TR 38.901.
    sites_m : ndarray
        Places of the base stations, ``(sites, 2)``, in metres.
    carrier_hz, h_bs_m, h_ut_m : float
        Carrier frequency and heights of the antennas.
    seed : int
        Draws line of sight and shadowing.
    """

    def __init__(
        self,
        scenario: CellScenario,
        sites_m: Floats,
        carrier_hz: float,
        h_bs_m: float,
        h_ut_m: float,
        seed: int,
    ) -> None:
        self.scenario: CellScenario = scenario
        self.sites_m, self.place = sites_m, PLACES[scenario]
        self.radio = carrier_hz, h_bs_m, h_ut_m
        lengths = self.place.sight_m, *self.place.shadowing_m
        self._fields = [
            [Field(length, (seed, AIR, site, purpose)) for purpose, length in enumerate(lengths)]
            for site in range(len(sites_m))
        ]

    def gains_db(self, places_m: Floats) -> Floats:
        """Return gains ``(places, sites)`` of the air: minus path loss and shadowing, no fading.

        Nearer than the table goes counts as its least distance, farther than it goes as no link.
        """
        low, high = self.place.distance_m
        d = np.linalg.norm(places_m[:, None] - self.sites_m, axis=2)
        _, h_bs, h_ut = self.radio
        least = max(low, 1.0) if low else np.sqrt(max(1 - (h_bs - h_ut) ** 2, 1e-6))
        inside = np.clip(d, least, self._most_m())
        values = np.array([[f.at(places_m) for f in fields] for fields in self._fields])
        sees = ndtr(values[:, SIGHT].T) < sight_probability(self.scenario, inside, h_ut)
        sees |= inside > self.place.blocked_distance_m[1]
        shadow = np.where(sees, values[:, CLEAR].T, values[:, BLOCKED].T)
        shadow *= shadowing_db(self.scenario, inside, *self.radio, sees)
        lost = path_loss_db(self.scenario, inside, *self.radio, sees) + shadow
        return np.where(d <= high, -lost, -np.inf)

    def _most_m(self) -> float:
        _, h_bs, h_ut = self.radio
        high = self.place.distance_m[1]
        if self.scenario != "inh":
            return high
        far = distance_3d(np.array(high), np.array(h_bs), np.array(h_ut))
        return high if far <= high else float(np.sqrt(high**2 - (h_bs - h_ut) ** 2))


class Serving:
    """Which site serves each terminal, step by step.

    A terminal goes over to another site that has been stronger by `hysteresis_db` for
    `trigger_steps` steps in a row (event A3, 3GPP TS 38.331 v17.0.0, section 5.5.4.4).
    """

    def __init__(self, gains_db: Floats, hysteresis_db: float, trigger_steps: int) -> None:
        self.hysteresis_db, self.trigger_steps = hysteresis_db, trigger_steps
        self.sites: Whole = gains_db.argmax(1)
        self._stronger = np.zeros(gains_db.shape, np.int64)

    def step(self, gains_db: Floats) -> Whole:
        """Take the gains of the next step; returns the serving sites."""
        nodes = np.arange(len(gains_db))
        own = gains_db[nodes, self.sites]
        stronger = gains_db > own[:, None] + self.hysteresis_db
        self._stronger = np.where(stronger, self._stronger + 1, 0)
        ready = self._stronger >= self.trigger_steps
        goes = ready.any(1)
        best = np.where(ready, gains_db, -np.inf).argmax(1)
        self.sites = np.where(goes, best, self.sites)
        self._stronger[goes] = 0
        return self.sites
