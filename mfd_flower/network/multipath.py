"""Clustered multipath between a base station and terminals: 3GPP TR 38.901 v17.0.0, section 7.5.

Steps 4 to 8: large-scale parameters, delays, powers and angles of clusters, rays. All of it is a
function of standard normal numbers, which are independent for independent drops, or fields over the
plane for terminals that share their surroundings (section 7.6.3). One polarisation; rays of
a cluster have one delay; arrivals are horizontal. Clusters 25 dB below the strongest one are kept:
step 6 leaves them out to save work, which takes a fifth of the delay spread with line of sight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from mfd_flower.network.tr38901_spreads import (
    SPREADS,
    ClusterScenario,
    Spreads,
    log_carrier,
    zenith_log_deg,
    zenith_offset_deg,
)

Floats = NDArray[np.float64]
LARGE_SCALE = 6
"""Normal numbers of a terminal: shadowing, K, spreads of delay, departure, arrival, zenith."""
OF_A_CLUSTER = 8
"""Normal numbers of a cluster: delay, shadowing, sign and offset of departure, arrival, zenith."""
CLUSTER_SHADOWING_DB = 3.0
WIDEST_DEG = 104.0
"""Azimuth spreads are limited to it, step 4."""
AZIMUTH_SCALE = {12: 1.146, 19: 1.273, 20: 1.289}
"""C_phi by the number of clusters, table 7.5-2."""
ZENITH_SCALE = {12: 1.104, 19: 1.184, 20: 1.178}
"""C_theta, table 7.5-4."""
_OFFSETS = (0.0447, 0.1413, 0.2492, 0.3715, 0.5129, 0.6797, 0.8844, 1.1481, 1.5195, 2.1551)
RAY_OFFSETS = np.array([sign * offset for offset in _OFFSETS for sign in (1, -1)])
"""Of the rays of a cluster with a spread of 1, table 7.5-3."""


@dataclass(frozen=True)
class Air:
    """What base stations and terminals of a network have in common."""

    scenario: ClusterScenario
    carrier_hz: float
    h_bs_m: float
    h_ut_m: float


@dataclass(frozen=True, eq=False)
class Rays:
    """What of a base station's power reaches terminals on which way, ``(users, clusters, rays)``.

    With line of sight the last cluster is the direct way, as one ray and others without power.
    """

    power: Floats
    """Sums to 1 for each user."""
    delay_s: Floats
    """Behind the first one, ``(users, clusters)``."""
    departure_rad: Floats
    """Azimuth at the base station, anticlockwise from the x axis."""
    zenith_rad: Floats
    """At the base station, from 0, upwards, to pi."""
    arrival_rad: Floats
    """Azimuth at the terminal."""
    shadowing: Floats
    """By how many deviations of shadowing more power arrives than in the mean, ``(users,)``."""


class _Scale(NamedTuple):
    """Large-scale parameters of each terminal, ``(users, 1)``; angles in degrees."""

    k_db: Floats
    """Minus infinity without line of sight."""
    delay_s: Floats
    departure: Floats
    arrival: Floats
    zenith: Floats
    zenith_mean: Floats

    @property
    def direct(self) -> Floats:
        """Share of the power that comes on the direct way."""
        k = 10 ** (self.k_db / 10)
        return k / (1 + k)


class _Clusters(NamedTuple):
    """Clusters of each terminal, ``(users, clusters)``; the first one arrives first."""

    delay_s: Floats
    power: Floats
    depth: Floats
    """By which factor each is weaker than the strongest one, the direct way in the first one: its
    natural logarithm."""


def multipath(
    air: Air,
    offsets_m: Floats,
    sees: bool,
    large: Floats,
    of_clusters: Floats,
    rng: np.random.Generator,
) -> Rays:
    """Return the rays to terminals that all have line of sight, or all have not.

    Parameters
    ----------
    air
        Scenario, carrier and heights.
    offsets_m
        Where terminals are from their base station, ``(users, 2)``.
    sees
        Whether there is line of sight.
    large
        Standard normal numbers ``(users, LARGE_SCALE)``.
    of_clusters
        Standard normal numbers ``(users, clusters, OF_A_CLUSTER)``, of as many clusters as
        `SPREADS` says.
    rng
        Couples the rays' angles (step 8), for all terminals alike.
    """
    spreads = SPREADS[air.scenario, sees]
    distance_m = np.linalg.norm(offsets_m, axis=1, keepdims=True)
    azimuth = np.degrees(np.arctan2(offsets_m[:, 1:], offsets_m[:, :1]))
    zenith = 90 + np.degrees(np.arctan2(air.h_bs_m - air.h_ut_m, distance_m))
    direct = azimuth, azimuth + 180, zenith
    mixed = large @ np.linalg.cholesky(spreads.correlation_matrix()).T
    scale = _large_scale(air, sees, mixed, distance_m)
    found = _clusters(spreads, scale, of_clusters)
    centres = list(direct)
    if not sees:
        centres[2] = zenith + zenith_offset_deg(
            air.scenario, distance_m, air.carrier_hz, air.h_ut_m
        )
    angles = _angles(spreads, scale, found.depth, of_clusters, sees, centres, rng)
    power = np.repeat(found.power[..., None] / len(RAY_OFFSETS), len(RAY_OFFSETS), axis=2)
    delay_s = found.delay_s
    if sees:
        angles = [_with(rays, way) for rays, way in zip(angles, direct, strict=True)]
        power = _with(power * (1 - scale.direct)[..., None], np.zeros_like(scale.direct))
        power[:, -1, :1] = scale.direct
        delay_s = np.pad(delay_s / _delay_scale(scale.k_db), ((0, 0), (0, 1)))
    departure, arrival, zenith = (np.radians(rays) for rays in angles)
    zenith = np.abs((zenith + np.pi) % (2 * np.pi) - np.pi)
    return Rays(power, delay_s, departure, zenith, arrival, mixed[:, 0])


def _large_scale(air: Air, sees: bool, mixed: Floats, distance_m: Floats) -> _Scale:
    """Return what step 4 draws, of normal numbers that are correlated as they should be."""
    spreads = SPREADS[air.scenario, sees]
    x = log_carrier(air.scenario, air.carrier_hz)
    laws = spreads.delay_s, spreads.departure_deg, spreads.arrival_deg
    delay, departure, arrival = (
        10 ** (law.mean.at(x) + law.deviation.at(x) * mixed[:, number, None])
        for number, law in enumerate(laws, 2)
    )
    mean = zenith_log_deg(air.scenario, sees, distance_m, air.h_bs_m, air.h_ut_m)
    zenith = 10 ** (mean + spreads.zenith_deviation * mixed[:, 5, None])
    k_db = spreads.k_db[0] + spreads.k_db[1] * mixed[:, 1, None]
    departure, arrival = np.minimum(departure, WIDEST_DEG), np.minimum(arrival, WIDEST_DEG)
    return _Scale(k_db, delay, departure, arrival, zenith, mean)


def _clusters(spreads: Spreads, scale: _Scale, of_clusters: Floats) -> _Clusters:
    """Return delays and powers, steps 5 and 6; powers sum to 1 without the direct way."""
    late = -log_ndtr(of_clusters[..., 0])
    # Exponential numbers less their least are exponential again, so one of them may be the first
    # everywhere. Were it another one from place to place, all angles would jump with it.
    late[:, 0] = 0
    power = np.exp((1 - spreads.delay_scaling) * late)
    power *= 10 ** (-CLUSTER_SHADOWING_DB * of_clusters[..., 1] / 10)
    power /= power.sum(1, keepdims=True)
    peaked = power * (1 - scale.direct)
    peaked[:, :1] += scale.direct
    depth = -np.log(peaked / peaked.max(1, keepdims=True))
    return _Clusters(spreads.delay_scaling * scale.delay_s * late, power, depth)


def _angles(
    spreads: Spreads,
    scale: _Scale,
    depth: Floats,
    of_clusters: Floats,
    sees: bool,
    centres: Sequence[Floats],
    rng: np.random.Generator,
) -> list[Floats]:
    """Return azimuth of departure, of arrival, and zenith of rays, steps 7 and 8."""
    around_scale, zenith_scale = _angle_scales(spreads.clusters, scale.k_db, sees)
    around, over = 2 / 1.4 * np.sqrt(depth) / around_scale, depth / zenith_scale
    kinds = (
        (scale.departure, around, of_clusters[..., 2:4], spreads.ray_departure_deg),
        (scale.arrival, around, of_clusters[..., 4:6], spreads.ray_arrival_deg),
        (scale.zenith, over, of_clusters[..., 6:8], 3 / 8 * 10 ** scale.zenith_mean[..., None]),
    )
    offsets = np.broadcast_to(RAY_OFFSETS, (spreads.clusters, len(RAY_OFFSETS)))
    return [
        (centre + _turned(spread, far, drawn, sees))[..., None]
        + width * rng.permuted(offsets, axis=1)
        for centre, (spread, far, drawn, width) in zip(centres, kinds, strict=True)
    ]


def _turned(spread: Floats, far: Floats, drawn: Floats, sees: bool) -> Floats:
    """Return angles of clusters from the direct way, ``(users, clusters)``, step 7.

    `far` of each cluster in units of the spread; `drawn` normal numbers for sign and offset. With
    line of sight the first cluster lies on the direct way.
    """
    turned = spread * (np.sign(drawn[..., 0]) * far + drawn[..., 1] / 7)
    return turned - turned[:, :1] if sees else turned


def _angle_scales(clusters: int, k_db: Floats, sees: bool) -> tuple[Floats, Floats]:
    """Return C_phi and C_theta, equations 7.5-10 and 7.5-15."""
    around, over = np.ones_like(k_db), np.ones_like(k_db)
    if sees:
        around = 1.1035 - 0.028 * k_db - 0.002 * k_db**2 + 0.0001 * k_db**3
        over = 1.3086 + 0.0339 * k_db - 0.0077 * k_db**2 + 0.0002 * k_db**3
    return AZIMUTH_SCALE[clusters] * around, ZENITH_SCALE[clusters] * over


def _delay_scale(k_db: Floats) -> Floats:
    """Return C_tau, equation 7.5-3: the direct way would else make the spread too small."""
    return 0.7705 - 0.0433 * k_db + 0.0002 * k_db**2 + 0.000017 * k_db**3


def _with(rays: Floats, last: Floats) -> Floats:
    """Return rays with one more cluster, whose rays are all the same, ``(users, 1)``."""
    users, _, each = rays.shape
    return np.concatenate([rays, np.broadcast_to(last[..., None], (users, 1, each))], axis=1)
