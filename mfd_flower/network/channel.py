"""From power and path loss to bits in a second.

Thermal noise, signal to interference and noise, and how much of Shannon's bound a real link gets:
3GPP TR 36.942 v17.0.0, annex A.2. Power in dBm, gains and losses in dB, rates in bit/s; arrays
broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import bounded

Floats = NDArray[np.float64]
BOLTZMANN_J_PER_K = 1.380649e-23
ROOM_K = 290.0
"""At which noise figures are defined (IEEE Std 145): -174 dBm in one hertz."""


@dataclass(frozen=True)
class Throughput:
    """Which part of Shannon's bound a link reaches.

    The defaults are the downlink of TR 36.942, table A.1; `UPLINK` is its uplink.
    """

    efficiency: float = bounded(0.6, 0.0, 1.0, open_low=True)
    """What implementation leaves of the bound, alpha there."""
    most_bps_per_hz: float = bounded(4.4, 0.0, open_low=True)
    """Of the highest modulation and coding rate."""
    least_sinr_db: float = -10.0
    """Below it nothing is received."""


DOWNLINK = Throughput()
UPLINK = Throughput(0.4, 2.0)


def noise_dbm(bandwidth_hz: ArrayLike, figure_db: ArrayLike = 0.0) -> Floats:
    """Return thermal noise k T B of a receiver with a noise figure."""
    bandwidth = np.asarray(bandwidth_hz, np.float64)
    figure = np.asarray(figure_db, np.float64)
    return 10 * np.log10(BOLTZMANN_J_PER_K * ROOM_K * bandwidth * 1e3) + figure


def sinr_db(
    received_dbm: ArrayLike, noise: ArrayLike, interference_dbm: ArrayLike = (-np.inf,)
) -> Floats:
    """Return the ratio of a signal to noise and interference.

    `noise` in dBm; `interference_dbm` has each of the other senders along its last axis, an idle
    one as ``-inf``.
    """
    others = (10 ** (np.asarray(interference_dbm, np.float64) / 10)).sum(-1)
    unwanted = 10 ** (np.asarray(noise, np.float64) / 10) + others
    return np.asarray(received_dbm, np.float64) - 10 * np.log10(unwanted)


def rate_bps(bandwidth_hz: ArrayLike, sinr: ArrayLike, throughput: Throughput = DOWNLINK) -> Floats:
    """Return ``efficiency * bandwidth * log2(1 + SINR)``, capped, and 0 where SINR is too low.

    TR 36.942 v17.0.0, equation in annex A.1; `sinr` in dB.
    """
    ratio_db = np.asarray(sinr, np.float64)
    per_hz = throughput.efficiency * np.log2(1 + 10 ** (ratio_db / 10))
    per_hz = np.minimum(per_hz, throughput.most_bps_per_hz)
    heard = ratio_db >= throughput.least_sinr_db
    return np.where(heard, np.asarray(bandwidth_hz, np.float64) * per_hz, 0.0)
