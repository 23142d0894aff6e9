"""What a base station makes of an uplink sounding: a picture of power over angle and delay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfd_flower.network.panel import Complex, Floats, beam_turns, steering

SIDE_PX = 28
"""Of a picture: as many angles as delays."""
TONES = 64
"""Sounded, evenly over the band."""
LEAD_BINS = 2
"""Delays in front of the first arrival that a picture shows."""
DEPTH_DB = 30.0
"""From white, the strongest angle and delay, to black."""


def tones_hz(band_hz: float) -> Floats:
    """Return where tones are, from the carrier, ``(TONES,)``."""
    return (np.arange(TONES) - (TONES - 1) / 2) * band_hz / TONES


def lead_s(band_hz: float) -> float:
    """Return by how much later than the clock the first ray arrives."""
    return LEAD_BINS / band_hz


def noisy(heard: Complex, snr_db: Floats, rng: np.random.Generator) -> Complex:
    """Return what elements hear, ``(users, columns, rows, tones)``, in noise.

    `snr_db` of each user is that of an element at its strongest, with all power from straight on.
    """
    deviation = np.sqrt(10 ** (-snr_db / 10) / 2).astype(np.float32)
    drawn = rng.standard_normal((*heard.shape, 2), np.float32)
    noise = drawn[..., 0] + np.complex64(1j) * drawn[..., 1]
    return heard + deviation[:, None, None, None] * noise


def angle_delay_pictures(heard: Complex, band_hz: float) -> NDArray[np.uint8]:
    """Return power over delay and angle, ``(users, SIDE_PX, SIDE_PX, 1)``.

    A discrete Fourier transform over columns and tones, its power summed over rows, in dB below
    the strongest. Lines are delays, 1 / band apart, the earliest on top; columns are evenly spaced
    sines of the angle from the sector's boresight.
    """
    to_angles = steering(beam_turns(SIDE_PX)).conj()
    delays_s = np.arange(SIDE_PX) / band_hz
    to_delays = np.exp(2j * np.pi * delays_s[:, None] * tones_hz(band_hz)).astype(np.complex64)
    seen = np.tensordot(heard, to_delays, (3, 1)).transpose(0, 3, 2, 1) @ to_angles.T
    power = (np.abs(seen) ** 2).sum(2)
    strongest = power.max((1, 2), keepdims=True)
    under_db = 10 * np.log10(np.maximum(power / strongest, 1e-9))
    grey = np.clip(1 + under_db / DEPTH_DB, 0, 1) * 255
    return np.round(grey)[..., None].astype(np.uint8)
