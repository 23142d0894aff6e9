"""Path loss and line of sight between a base station and a terminal, as 3GPP TR 38.901 has them.

Release 17 (v17.0.0): path loss of table 7.4.1-1, probability of line of sight of table 7.4.2-1,
spread of shadowing of table 7.4.1-1, its correlation distance of table 7.5-6, that of line of sight
of table 7.6.3.1-2. Distances and heights are in metres, frequencies in Hz; arrays broadcast.
`mfd_flower.network.path_loss` checks what goes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LIGHT_M_PER_S = 3.0e8
"""As in the report's breakpoint distances, note 1 of table 7.4.1-1."""
STREET_M, BUILDING_M = 20.0, 5.0
"""Widths of streets and heights of buildings of the rural scenario, W and h of table 7.4.1-1."""
ENVIRONMENT_M = 1.0
"""Height of what stands around the antennas, h_E of note 1: always that in UMi; in UMa that of the
terminals which are no higher than 13 m."""

MAST_M = (1.5, 150.0)
"""Of a base station in UMi and UMa: the table's 10 m and 25 m are defaults, no bounds."""


Loss = Callable[[Floats, Floats, Floats, Floats], Floats]
"""From distance on the ground, frequency and the heights of base station and terminal, in dB."""


@dataclass(frozen=True)
class Place:
    """A scenario: what is lost, how often there is line of sight, and where that holds."""

    line_of_sight_db: Loss
    blocked_db: Loss
    """The same without line of sight, before it is held to at least the loss with it."""
    sees: Callable[[Floats, Floats], Floats]
    """Probability of line of sight, from distance on the ground and the terminal's height."""
    shadowing_db: tuple[float, float]
    """Standard deviation with and without line of sight."""
    shadowing_m: tuple[float, float]
    """Distance over which it decorrelates, with and without line of sight."""
    sight_m: float
    """Distance over which line of sight itself decorrelates."""
    distance_m: tuple[float, float]
    """On the ground, with line of sight."""
    blocked_distance_m: tuple[float, float]
    h_bs_m: tuple[float, float]
    h_ut_m: tuple[float, float]
    carrier_hz: tuple[float, float]


def distance_3d(d: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    """Return the distance between two antennas that are `d` apart on the ground."""
    return np.hypot(d, h_bs - h_ut)


def _log(x: Floats) -> Floats:
    return np.log10(x)


def _two_slopes(offset_db: float, slope: float, bend: float) -> Loss:
    """Return the loss with line of sight of UMi and UMa, steeper behind the breakpoint."""

    def loss(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
        far, ends = distance_3d(d, h_bs, h_ut), _breakpoint(f, h_bs, h_ut)
        at_1_m = offset_db + 20 * _log(f / 1e9)
        bent = bend * _log(ends**2 + (h_bs - h_ut) ** 2)
        return np.where(d <= ends, at_1_m + slope * _log(far), at_1_m + 40 * _log(far) - bent)

    return loss


def _street_canyon_blocked(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    far = distance_3d(d, h_bs, h_ut)
    return 22.4 + 35.3 * _log(far) + 21.3 * _log(f / 1e9) - 0.3 * (h_ut - 1.5)


def _urban_blocked(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    far = distance_3d(d, h_bs, h_ut)
    return 13.54 + 39.08 * _log(far) + 20 * _log(f / 1e9) - 0.6 * (h_ut - 1.5)


def _rural(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    ends = 2 * np.pi * h_bs * h_ut * f / LIGHT_M_PER_S
    far = distance_3d(d, h_bs, h_ut)
    return np.where(d <= ends, _rural_near(far, f), _rural_near(ends, f) + 40 * _log(far / ends))


def _rural_near(far: Floats, f: Floats) -> Floats:
    slope = min(0.03 * BUILDING_M**1.72, 10.0)
    offset = min(0.044 * BUILDING_M**1.72, 14.77)
    free_db = 20 * _log(40 * np.pi * far * f / 1e9 / 3)
    return free_db + slope * _log(far) - offset + 0.002 * np.log10(BUILDING_M) * far


def _rural_blocked(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    far = distance_3d(d, h_bs, h_ut)
    roofs = 7.5 * np.log10(BUILDING_M) - 7.1 * np.log10(STREET_M)
    mast = (24.37 - 3.7 * (BUILDING_M / h_bs) ** 2) * _log(h_bs)
    slope = (43.42 - 3.1 * _log(h_bs)) * (_log(far) - 3)
    terminal = 3.2 * _log(11.75 * h_ut) ** 2 - 4.97
    return 161.04 + roofs - mast + slope + 20 * _log(f / 1e9) - terminal


def _indoor(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    return 32.4 + 17.3 * _log(distance_3d(d, h_bs, h_ut)) + 20 * _log(f / 1e9)


def _indoor_blocked(d: Floats, f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    return 17.3 + 38.3 * _log(distance_3d(d, h_bs, h_ut)) + 24.9 * _log(f / 1e9)


def _breakpoint(f: Floats, h_bs: Floats, h_ut: Floats) -> Floats:
    """Return the effective breakpoint distance of note 1."""
    return 4 * (h_bs - ENVIRONMENT_M) * (h_ut - ENVIRONMENT_M) * f / LIGHT_M_PER_S


def _sees_street_canyon(d: Floats, h_ut: Floats) -> Floats:
    return _sees_along(d, 36.0)


def _sees_urban(d: Floats, h_ut: Floats) -> Floats:
    above = (np.maximum(h_ut - 13, 0) / 10) ** 1.5
    risen = 1 + above * 1.25 * (d / 100) ** 3 * np.exp(-d / 150)
    return np.where(d <= 18, 1.0, _sees_along(d, 63.0) * risen)


def _sees_along(d: Floats, scale_m: float) -> Floats:
    sure = np.minimum(18 / d, 1)
    return sure + np.exp(-d / scale_m) * (1 - sure)


def _sees_rural(d: Floats, h_ut: Floats) -> Floats:
    return np.exp(-np.maximum(d - 10, 0) / 1000)


def _sees_indoor(d: Floats, h_ut: Floats) -> Floats:
    """Return that of a mixed office; an open one sees farther."""
    near, far = np.exp(-np.maximum(d - 1.2, 0) / 4.7), 0.32 * np.exp(-(d - 6.5) / 32.6)
    return np.where(d < 6.5, near, far)


PLACES = {
    "umi": Place(
        _two_slopes(32.4, 21, 9.5), _street_canyon_blocked, _sees_street_canyon,
        (4.0, 7.82), (10.0, 13.0), 50.0,
        (10.0, 5000.0), (10.0, 5000.0), MAST_M, (1.5, 22.5), (0.5e9, 100e9),
    ),
    "uma": Place(
        _two_slopes(28.0, 22, 9), _urban_blocked, _sees_urban, (4.0, 6.0), (37.0, 50.0), 50.0,
        (10.0, 5000.0), (10.0, 5000.0), MAST_M, (1.5, 22.5), (0.5e9, 100e9),
    ),
    "rma": Place(
        _rural, _rural_blocked, _sees_rural, (4.0, 8.0), (37.0, 120.0), 60.0,
        (10.0, 10_000.0), (10.0, 5000.0), (10.0, 150.0), (1.0, 10.0), (0.5e9, 30e9),
    ),
    "inh": Place(
        _indoor, _indoor_blocked, _sees_indoor, (3.0, 8.03), (10.0, 6.0), 10.0,
        (0.0, 150.0), (0.0, 150.0), (0.5, 50.0), (0.5, 50.0), (0.5e9, 100e9),
    ),
}  # fmt: skip
"""By the names of the scenarios. Shadowing of RMa rises from 4 to 6 dB behind the breakpoint, see
`shadowing_db`. An indoor distance is limited to 1 to 150 m between the antennas."""


def rural_breakpoint_m(carrier_hz: Floats, h_bs_m: Floats, h_ut_m: Floats) -> Floats:
    """Return d_BP of note 5, behind which shadowing of RMa is 6 dB."""
    return 2 * np.pi * h_bs_m * h_ut_m * carrier_hz / LIGHT_M_PER_S
