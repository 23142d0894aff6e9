"""How far clustered multipath spreads in delay and angle, as 3GPP TR 38.901 has it.

Release 16 and 17 (v16.1.0, v17.0.0), outdoors: table 7.5-6 part 1, tables 7.5-7 and 7.5-8 for the
zenith of departure, table 7.6.3.1-2 for how far clusters reach. Spreads are log-normal: the tables
give mean and deviation of their decimal logarithm, as lines over that of the carrier in GHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
ClusterScenario = Literal["umi", "uma"]
"""The scenarios that have tables here: street canyon, urban macro."""


class Line(NamedTuple):
    """A mean or a deviation: `start`, and `slope` times the logarithm of the carrier."""

    start: float
    slope: float = 0.0

    def at(self, log_carrier: float) -> float:
        """Return the value for the logarithm that `log_carrier` gives."""
        return self.start + self.slope * log_carrier


class LogNormal(NamedTuple):
    """A spread, by the logarithm's mean and deviation."""

    mean: Line
    deviation: Line


@dataclass(frozen=True)
class Spreads:
    """One column of table 7.5-6."""

    delay_s: LogNormal
    departure_deg: LogNormal
    """Azimuth at the base station."""
    arrival_deg: LogNormal
    """Azimuth at the terminal."""
    zenith_deviation: float
    """Of the logarithm of the zenith spread of departure; its mean is `zenith_log_deg`."""
    k_db: tuple[float, float]
    """Mean and deviation of the Ricean K; of no use without line of sight."""
    correlations: tuple[float, ...]
    """Of shadowing, K, and the spreads of delay, departure, arrival and zenith of departure, each
    with all behind it in this order: the upper triangle of a matrix, by rows."""
    correlation_m: tuple[float, ...]
    """Distance over which each of these six decorrelates."""
    cluster_m: float
    """The same for what is random about a cluster."""
    clusters: int
    delay_scaling: float
    """r_tau."""
    ray_departure_deg: float
    """Azimuth spread of the rays of a cluster, c_ASD and c_ASA."""
    ray_arrival_deg: float

    def correlation_matrix(self) -> Floats:
        """Return correlations of the six large-scale parameters, ``(6, 6)``."""
        matrix = np.eye(len(self.correlation_m))
        rows, columns = np.triu_indices(len(matrix), 1)
        matrix[rows, columns] = matrix[columns, rows] = self.correlations
        return matrix


def _log_normal(mean: float, slope: float, deviation: float, wider: float = 0.0) -> LogNormal:
    return LogNormal(Line(mean, slope), Line(deviation, wider))


SPREADS: dict[tuple[ClusterScenario, bool], Spreads] = {
    ("umi", True): Spreads(
        _log_normal(-7.14, -0.24, 0.38),
        _log_normal(1.21, -0.05, 0.41),
        _log_normal(1.73, -0.08, 0.28, 0.014),
        0.35, (9.0, 5.0),
        (0.5, -0.4, -0.5, -0.4, 0.0, -0.7, -0.2, -0.3, 0.0, 0.5, 0.8, 0.0, 0.4, 0.5, 0.0),
        (10.0, 15.0, 7.0, 8.0, 8.0, 12.0), 12.0, 12, 3.0, 3.0, 17.0,
    ),
    ("umi", False): Spreads(
        _log_normal(-6.83, -0.24, 0.28, 0.16),
        _log_normal(1.53, -0.23, 0.33, 0.11),
        _log_normal(1.81, -0.08, 0.3, 0.05),
        0.35, (-np.inf, 0.0),
        (0.0, -0.7, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4, -0.5, 0.0, 0.5, 0.0),
        (13.0, 1.0, 10.0, 10.0, 9.0, 10.0), 15.0, 19, 2.1, 10.0, 22.0,
    ),
    ("uma", True): Spreads(
        _log_normal(-6.955, -0.0963, 0.66),
        _log_normal(1.06, 0.1114, 0.28),
        _log_normal(1.81, 0.0, 0.2),
        0.4, (9.0, 3.5),
        (0.0, -0.4, -0.5, -0.5, 0.0, -0.4, 0.0, -0.2, 0.0, 0.4, 0.8, -0.2, 0.0, 0.5, -0.3),
        (37.0, 12.0, 30.0, 18.0, 15.0, 15.0), 40.0, 12, 2.5, 5.0, 11.0,
    ),
    ("uma", False): Spreads(
        _log_normal(-6.28, -0.204, 0.39),
        _log_normal(1.5, -0.1144, 0.28),
        _log_normal(2.08, -0.27, 0.11),
        0.49, (-np.inf, 0.0),
        (0.0, -0.4, -0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4, 0.6, -0.5, 0.4, 0.5, 0.0),
        (50.0, 1.0, 40.0, 50.0, 50.0, 50.0), 50.0, 20, 2.3, 2.0, 15.0,
    ),
}  # fmt: skip
"""By scenario and whether there is line of sight. Without it K has no meaning, and none here."""


def log_carrier(scenario: ClusterScenario, carrier_hz: float) -> float:
    """Return what the lines of a scenario are over: notes 6 and 7 of table 7.5-6.

    UMi is over ``log10(1 + f)`` and has f below 2 GHz as 2, UMa over ``log10(f)`` and 6 GHz.
    """
    ghz = carrier_hz / 1e9
    return float(np.log10(1 + max(ghz, 2.0)) if scenario == "umi" else np.log10(max(ghz, 6.0)))


def zenith_log_deg(
    scenario: ClusterScenario, sees: bool, distance_2d_m: ArrayLike, h_bs_m: float, h_ut_m: float
) -> Floats:
    """Return the mean of the logarithm of the zenith spread of departure in degrees.

    Tables 7.5-7 (UMa) and 7.5-8 (UMi); metres.
    """
    km = np.asarray(distance_2d_m, np.float64) / 1000
    if scenario == "uma":
        return np.maximum(-0.5, -2.1 * km - 0.01 * (h_ut_m - 1.5) + (0.75 if sees else 0.9))
    if sees:
        return np.maximum(-0.21, -14.8 * km + 0.01 * abs(h_ut_m - h_bs_m) + 0.83)
    return np.maximum(-0.5, -3.1 * km + 0.01 * max(h_ut_m - h_bs_m, 0.0) + 0.2)


def zenith_offset_deg(
    scenario: ClusterScenario, distance_2d_m: ArrayLike, carrier_hz: float, h_ut_m: float
) -> Floats:
    """Return the offset of the zenith of departure without line of sight; with it there is none.

    In degrees, above the terminal negative; tables as above.
    """
    d = np.asarray(distance_2d_m, np.float64)
    if scenario == "umi":
        return -(10 ** (-1.5 * np.log10(np.maximum(10.0, d)) + 3.3))
    log_ghz = log_carrier(scenario, carrier_hz)
    a, c, e = 0.208 * log_ghz - 0.782, -0.13 * log_ghz + 2.03, 7.66 * log_ghz - 5.96
    return e - 10 ** (a * np.log10(np.maximum(25.0, d)) + c - 0.07 * (h_ut_m - 1.5))
