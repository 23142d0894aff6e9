"""Rates between nodes, which share a band with those near them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mfd_flower.network.channel import UPLINK, noise_dbm, rate_bps, sinr_db
from mfd_flower.network.fading import Fading
from mfd_flower.network.places import Places
from mfd_flower.network.street_air import StreetAir
from mfd_flower.network.tracks import Floats
from mfd_flower.network.wireless_options import WirelessOptions


class StreetLinks:
    """Links between nodes, by number.

    Base stations see to it that those near each other take turns (3GPP TS 38.300 v17.0.0, section
    16.9, mode 1); senders farther away than two nodes reach use the same band, and interfere.
    """

    def __init__(self, options: WirelessOptions, places: Places, fading: Fading, seed: int) -> None:
        self._options, self._places, self._fading = options, places, fading
        self._air = StreetAir(options.carrier_hz, options.d2d_range_m / 2, seed)
        self._noise_dbm = float(noise_dbm(options.d2d_hz, options.ut_noise_db))
        self._heard = lru_cache(maxsize=4096)(self._in_range_of)

    def near(self, node: int, step: int) -> NDArray[np.int64]:
        """Return who is in range in a step, and heard in the mean if nobody else sends."""
        near, gains_db = self._heard(node, step)
        received = self._options.ut_dbm + gains_db
        heard = sinr_db(received, self._noise_dbm) >= UPLINK.least_sinr_db
        return near[heard & (near != node)]

    def _in_range_of(self, node: int, step: int) -> tuple[NDArray[np.int64], Floats]:
        """Return who is in range in a step, itself too, ascending, and the gains of the air.

        A holder looks at its neighbours, asks them and sends: the same air, each time.
        """
        near = self._places.near(node, self._options.d2d_range_m, step)
        places = self._places.in_step(step)
        return near, self._air.gains_db(places[near], places[node])

    def rates_bps(self, senders: Sequence[int], receivers: Sequence[int], at_s: float) -> Floats:
        """Return rates of messages under way together, each with its sender and receiver."""
        if len(set(senders)) == 1:
            return self._of_one(senders[0], receivers, at_s)
        # By nodes, not by messages: of those one node may send very many at once.
        those, sender = _numbered(senders)
        ends, receiver = _numbered(receivers)
        count = np.bincount(sender)
        places = self._places.in_step(self._places.step(at_s))
        one_m, other_m = places[ends][:, None], places[those][None]
        far = np.linalg.norm(one_m - other_m, axis=2)
        fading = self._fading.gains_db(at_s, np.array(ends)[:, None], np.array(those))
        heard_dbm = self._options.ut_dbm + self._air.gains_db(one_m, other_m) + fading
        near = far <= 2 * self._options.d2d_range_m
        sharing = np.maximum((near * count).sum(1), 1)[receiver]
        part_db = 10 * np.log10(sharing)
        distant = np.where(near, -np.inf, heard_dbm + 10 * np.log10(count))
        others = distant[receiver] - part_db[:, None]
        signal = heard_dbm[receiver, sender]
        ratio = sinr_db(signal, self._noise_dbm - part_db, others)
        return self._in_range(far[receiver, sender], ratio, sharing)

    def alone_bps(self, sender: int, receivers: Sequence[int], at_s: float) -> Floats:
        """Return the rate to each of several nodes, if it alone is sent to."""
        return self._of_one(sender, receivers, at_s, np.ones(len(receivers)))

    def _of_one(
        self, sender: int, receivers: Sequence[int], at_s: float, sharing: Floats | None = None
    ) -> Floats:
        """Return rates where one node sends all there is, so that nobody interferes.

        Without `sharing`, how many each shares the band with, all is sent at once.
        """
        step, ends = self._places.step(at_s), np.asarray(receivers)
        near, gains_db = self._heard(sender, step)
        # Who is in range has a place in that row; whoever stands there for others is not heard.
        place = np.searchsorted(near, ends).clip(max=len(near) - 1)
        heard = near[place] == ends
        if sharing is None:
            places = self._places.in_step(step)
            far = np.linalg.norm(places[ends] - places[sender], axis=1)
            sharing = np.where(far <= 2 * self._options.d2d_range_m, len(ends), 1)
        if not heard.any():
            return np.zeros(len(ends))
        gains = gains_db[place] + self._fading.gains_db(at_s, ends, np.array(sender))
        ratio = self._options.ut_dbm + gains - self._noise_dbm + 10 * np.log10(sharing)
        return np.where(heard, rate_bps(self._options.d2d_hz / sharing, ratio, UPLINK), 0.0)

    def _in_range(
        self, far_m: Floats, ratio_db: Floats, sharing: Floats | NDArray[np.int64]
    ) -> Floats:
        rates = rate_bps(self._options.d2d_hz / sharing, ratio_db, UPLINK)
        return np.where(far_m <= self._options.d2d_range_m, rates, 0.0)


def _numbered(of_each: Sequence[int]) -> tuple[list[int], NDArray[np.int64]]:
    """Return the unlike ones, and of each which of them it is; for a few faster than `unique`."""
    places: dict[int, int] = {}
    which = [places.setdefault(each, len(places)) for each in of_each]
    return list(places), np.array(which)
