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
        self.near = lru_cache(maxsize=4096)(self._near)

    def _near(self, node: int, step: int) -> NDArray[np.int64]:
        """Return who is in range in a step, and heard in the mean if nobody else sends."""
        near = self._places.near(node, self._options.d2d_range_m, step)
        if not len(near):
            return near
        places = self._places.in_step(step)
        received = self._options.ut_dbm + self._air.gains_db(places[near], places[node])
        return near[sinr_db(received, self._noise_dbm) >= UPLINK.least_sinr_db]

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
        places = self._places.in_step(self._places.step(at_s))
        ends_m, source_m = places[list(receivers)], places[sender]
        far = np.linalg.norm(ends_m - source_m, axis=1)
        if sharing is None:
            sharing = np.where(far <= 2 * self._options.d2d_range_m, len(receivers), 1)
        gains = self._air.gains_db(ends_m, source_m)
        gains = gains + self._fading.gains_db(at_s, np.array(receivers), np.array(sender))
        ratio = self._options.ut_dbm + gains - self._noise_dbm + 10 * np.log10(sharing)
        return self._in_range(far, ratio, sharing)

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
