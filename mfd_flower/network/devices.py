"""What a node computes with, how much it holds, and how long its battery lasts.

Energy of computing is ``kappa C f^2`` for C cycles at a clock of f (Burd and Brodersen 1996,
*Processor design for portable systems*; as the literature on wireless federated learning uses it,
for example Yang et al. 2021, arXiv 1911.02417, equation 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mfd_flower.network.world import Device

PHONE_KAPPA = 1e-28
"""Effective switched capacitance of a phone's core (arXiv 1911.02417, section V)."""
UTILISATION = 0.5
"""Share of the peak that a training step reaches: small matrices, and what is no product."""
SITE_SLOPE = {"umi": 2.6, "uma": 4.7, "rma": 4.7, "inh": 4.0}
"""Watts that a micro, macro or pico base station draws more for each that it radiates (Auer et al.
2011, *How much energy is needed to run a wireless network?*, table 2)."""
LI_ION_V = 3.85
"""Nominal voltage of a phone's battery, by which its mAh are joules."""


@dataclass(frozen=True)
class Profile:
    """A kind of device; `device` is what a world asks."""

    clock_hz: float
    flops_per_cycle: float
    """In fp32, of all that computes at once."""
    kappa: float
    """Joules per cycle and squared hertz."""
    memory_bytes: float
    """What a model, its gradients and its activations may take."""
    battery_j: float = math.inf

    @property
    def flops_per_s(self) -> float:
        """What a training step reaches."""
        return UTILISATION * self.clock_hz * self.flops_per_cycle

    @property
    def joules_per_flop(self) -> float:
        """``kappa f^2`` over what a cycle does; a cycle that waits costs as much."""
        return self.kappa * self.clock_hz**2 / (UTILISATION * self.flops_per_cycle)

    def device(self, slower: float = 1.0) -> Device:
        """Return the device; one that is `slower` takes as much energy for a FLOP."""
        return Device(
            flops_per_s=self.flops_per_s / slower,
            joules_per_flop=self.joules_per_flop,
            joules_per_bit=0.0,
            memory_bytes=self.memory_bytes,
        )


def handset_w(dbm: float) -> float:
    """Return what a handset's transmitter draws while it radiates so much.

    Measured on an LTE modem (Jensen et al. 2012, *LTE UE power consumption model*, table II).
    """
    if dbm <= 0.2:
        return 0.001 * max(0.78 * dbm + 23.6, 0.0)
    if dbm <= 11.4:
        return 0.001 * (17.0 * dbm + 45.4)
    return 0.001 * (5.90 * dbm**2 - 118 * dbm + 1195)


def _board(clock_hz: float, flops_per_cycle: float, watts: float, memory_gb: float) -> Profile:
    """Return a profile that draws so many watts when all of it computes: kappa is P / f^3."""
    return Profile(clock_hz, flops_per_cycle, watts / clock_hz**3, memory_gb * 1e9)


def _phone(clock_hz: float, flops_per_cycle: float, memory_gb: float, mah: float) -> Profile:
    """Return a phone that trains on its largest core; an app gets a quarter of the memory."""
    battery_j = mah * 3.6 * LI_ION_V
    return Profile(clock_hz, flops_per_cycle, PHONE_KAPPA, memory_gb * 1e9 / 4, battery_j)


PROFILES: dict[str, Profile] = {
    # Arm Cortex-X4: four 128-bit vector units that multiply and add, 4 x 4 x 2 (its software
    # optimization guide), at 3.3 GHz as in Snapdragon 8 Gen 3's product brief.
    "phone-high": _phone(3.3e9, 32, 12, 5000),
    # Arm Cortex-A78: two such units (its guide), at 2.4 GHz.
    "phone-mid": _phone(2.4e9, 16, 6, 5000),
    # Arm Cortex-A55: two of 64 bits (its guide), at 2.0 GHz.
    "phone-low": _phone(2.0e9, 8, 3, 4000),
    # NVIDIA Jetson Orin Nano 8 GB: 1,024 cores, 1.02 GHz, 25 W (its data sheet); the battery of a
    # TurtleBot 4, 26 Wh (Clearpath's user manual).
    "robot": replace(_board(1.02e9, 2048, 25, 8), battery_j=26 * 3600.0),
    # NVIDIA Jetson AGX Orin 64 GB: 2,048 cores, 1.3 GHz, 60 W (its data sheet).
    "base-station": _board(1.3e9, 4096, 60, 64),
    # NVIDIA L4: 7,424 cores, 2.04 GHz, 72 W, 24 GB (its data sheet, 2023).
    "edge-server": _board(2.04e9, 14848, 72, 24),
    # NVIDIA A100 80 GB SXM: 6,912 cores, 1.41 GHz, 400 W (its data sheet, 2021).
    "cloud": _board(1.41e9, 13824, 400, 80),
}
"""By name."""
