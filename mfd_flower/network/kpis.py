"""What 3GPP asks of a network that moves models: how much, within which time, at which rate.

3GPP TS 22.261 v20.1.0, section 7.10.1: tables 7.10.1-1 (split inference between a terminal and the
network) and 7.10.1-2 (models to terminals). Reliability and availability there speak of many
transfers; here one transfer meets a requirement or does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.network.world import Link


@dataclass(frozen=True)
class Requirement:
    """A transfer that a network has to manage."""

    name: str
    link: Link
    size_bytes: float
    within_s: float
    rate_bps: float
    """The rate that its user sees."""

    def met(self, rate_bps: ArrayLike, latency_s: ArrayLike = 0.0) -> NDArray[np.bool_]:
        """Tell whether links of these rates are fast enough, and have it there in time."""
        rate = np.asarray(rate_bps, np.float64)
        seconds = transfer_s(self.size_bytes, rate, latency_s)
        return (rate >= self.rate_bps) & (seconds <= self.within_s)


REQUIREMENTS = (
    Requirement("model for image recognition", "down", 138e6, 1.0, 1.1e9),
    Requirement("model for speech recognition", "down", 80e6, 1.0, 640e6),
    Requirement("split image recognition", "up", 0.27e6, 0.015, 144e6),
    Requirement("enhanced media recognition", "down", 1.5e6, 0.1, 150e6),
    Requirement("split control of robots", "down", 40e3, 0.012, 320e6),
)
MODEL_TO_TERMINAL = REQUIREMENTS[0]
"""What a model that travels is held against."""


def transfer_s(size_bytes: ArrayLike, rate_bps: ArrayLike, latency_s: ArrayLike = 0.0) -> NDArray:
    """Return how long transfers take; infinite over links of rate 0."""
    bits, rate = 8 * np.asarray(size_bytes, np.float64), np.asarray(rate_bps, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(latency_s, np.float64) + np.where(rate > 0, bits / rate, np.inf)
