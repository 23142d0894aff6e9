"""A sector's panel of antennas: what it hears of rays, tone by tone, and its beams.

Columns and rows of elements half a wavelength apart, all of one polarisation, 3GPP TR 38.901
v17.0.0, section 7.3; each element has the pattern of table 7.3-1. Gains are relative to an element
at its strongest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.network.multipath import Rays

Floats = NDArray[np.float64]
Complex = NDArray[np.complex64]
COLUMNS, ROWS = 16, 2
BORESIGHTS_RAD = np.radians([30.0, 150.0, 270.0])
"""Of the sectors of a site."""
WIDTH_DEG = 65.0
"""Between the directions where an element hears half of the power, both ways."""
LEAST_DB = -30.0
"""What it hears from behind."""


def sector_of(offsets_m: Floats) -> NDArray[np.int64]:
    """Return which sector looks most towards terminals ``(users, 2)`` from their base station."""
    azimuth = np.arctan2(offsets_m[:, 1], offsets_m[:, 0])
    return np.cos(azimuth[:, None] - BORESIGHTS_RAD).argmax(1)


def element_db(azimuth_rad: ArrayLike, zenith_rad: ArrayLike) -> Floats:
    """Return what an element hears from a direction, relative to straight on; they broadcast.

    Azimuth from its boresight.
    """
    off = np.degrees((np.asarray(azimuth_rad) + np.pi) % (2 * np.pi) - np.pi)
    aside = np.maximum(-12 * (off / WIDTH_DEG) ** 2, LEAST_DB)
    over = np.maximum(-12 * ((np.degrees(zenith_rad) - 90) / WIDTH_DEG) ** 2, LEAST_DB)
    return np.maximum(aside + over, LEAST_DB)


def channel(
    rays: Rays, boresight_rad: Floats, phases_rad: Floats, tones_hz: Floats, lead_s: float = 0.0
) -> Complex:
    """Return what each element hears of each tone, ``(users, COLUMNS, ROWS, tones)``.

    Parameters
    ----------
    rays
        Of power 1 for each user.
    boresight_rad
        Of each user's sector, ``(users,)``.
    phases_rad
        Of the rays, ``(users, clusters, rays)``.
    tones_hz
        From the carrier, ``(tones,)``.
    lead_s
        By how much later than the clock's zero the first ray arrives.
    """
    azimuth = rays.departure_rad - boresight_rad[:, None, None]
    heard_db = element_db(azimuth, rays.zenith_rad)
    heard = _turned(phases_rad) * np.sqrt(rays.power * 10 ** (heard_db / 10)).astype(np.float32)
    columns = _powers(np.pi * np.sin(rays.zenith_rad) * np.sin(azimuth), COLUMNS)
    rows = _powers(np.pi * np.cos(rays.zenith_rad), ROWS) * heard[..., None]
    of_clusters = columns.swapaxes(-1, -2) @ rows
    late = _turned(-2 * np.pi * (rays.delay_s + lead_s)[..., None] * tones_hz)
    users, clusters = rays.delay_s.shape
    added = of_clusters.reshape(users, clusters, COLUMNS * ROWS).swapaxes(1, 2) @ late
    return added.reshape(users, COLUMNS, ROWS, len(tones_hz))


def steering(turns: ArrayLike) -> Complex:
    """Return what columns hear, ``(..., COLUMNS)``, of waves by the sines of their directions."""
    return _powers(np.pi * np.asarray(turns, np.float64), COLUMNS)


def beam_turns(beams: int) -> Floats:
    """Return the sines of the directions of a DFT codebook's beams, evenly over all of them."""
    return (2 * np.arange(beams) + 1) / beams - 1


def beams_db(heard: Complex, beams: int) -> Floats:
    """Return the gain of each beam, ``(users, beams)``, over an element that faces all power.

    `heard` as of `channel`. A beam has the same power in all elements and tones, rows in phase;
    what arrives is the mean over the tones.
    """
    weights = steering(beam_turns(beams)).conj() / np.sqrt(COLUMNS * ROWS)
    sent = np.tensordot(heard.sum(2), weights, (1, 1))
    return 10 * np.log10(np.maximum((np.abs(sent) ** 2).mean(1, dtype=np.float64), 1e-30))


def _turned(angle_rad: Floats) -> Complex:
    """Return the complex numbers of these angles; accurate also for many turns."""
    angle = np.asarray(angle_rad % (2 * np.pi), np.float32)
    # By parts: numpy's complex exponential takes several times as long.
    return np.cos(angle) + np.complex64(1j) * np.sin(angle)


def _powers(angle_rad: Floats, count: int) -> Complex:
    """Return the first powers of the numbers of these angles, ``(..., count)``, 1 the first."""
    powers = np.ones((*angle_rad.shape, count), np.complex64)
    powers[..., 1:] = _turned(angle_rad)[..., None]
    return np.multiply.accumulate(powers, axis=-1)
