"""A picture shows when and where from power arrives, however strong it is and in whatever phase."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mfd_flower.network.panel import beam_turns, beams_db, channel
from mfd_flower.network.sounding import (
    LEAD_BINS,
    SIDE_PX,
    TONES,
    angle_delay_pictures,
    lead_s,
    noisy,
    tones_hz,
)
from tests.network.test_panel import lone_ray

BAND_HZ = 20e6


@settings(max_examples=50, deadline=None)
@given(st.integers(0, SIDE_PX - 1 - LEAD_BINS), st.integers(4, SIDE_PX - 5))
def test_a_lone_ray_is_white_at_its_delay_and_angle(late: int, column: int) -> None:
    azimuth_rad = float(np.arcsin(beam_turns(SIDE_PX)[column]))
    rays = lone_ray(azimuth_rad, late / BAND_HZ)
    heard = channel(rays, np.zeros(1), np.zeros((1, 1, 1)), tones_hz(BAND_HZ), lead_s(BAND_HZ))
    picture = angle_delay_pictures(heard, BAND_HZ)[0, ..., 0]
    assert np.argwhere(picture == 255).tolist() == [[late + LEAD_BINS, column]]
    assert (np.delete(picture, late + LEAD_BINS, axis=0) == 0).all()


def drawn(seed: int) -> np.ndarray:
    """Return what panels might hear of three terminals."""
    rng = np.random.default_rng(seed)
    shape = 3, 16, 2, TONES
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 7), st.floats(-60, 60))
def test_neither_picture_nor_best_beam_depends_on_a_common_phase_or_strength(
    seed: int, phase_rad: float, gain_db: float
) -> None:
    heard = drawn(seed)
    turned = (heard * 10 ** (gain_db / 20) * np.exp(1j * phase_rad)).astype(np.complex64)
    one, other = angle_delay_pictures(heard, BAND_HZ), angle_delay_pictures(turned, BAND_HZ)
    # What lies between two greys may be rounded either way.
    assert np.abs(one.astype(int) - other).max() <= 1
    gains_db = beams_db(heard, 16)
    ranked = np.sort(gains_db, axis=1)
    assume((ranked[:, -1] - ranked[:, -2]).min() > 1e-3)
    np.testing.assert_array_equal(beams_db(turned, 16).argmax(1), gains_db.argmax(1))
    np.testing.assert_allclose(beams_db(turned, 16), gains_db + gain_db, atol=1e-3)


def test_noise_has_the_power_that_its_ratio_says() -> None:
    silence, snr_db = np.zeros((40, 16, 2, TONES), np.complex64), np.linspace(-20, 40, 40)
    noise = noisy(silence, snr_db, np.random.default_rng(0))
    found_db = -10 * np.log10((np.abs(noise) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(found_db, snr_db, atol=0.4)


def test_in_noise_alone_a_picture_is_grey_all_over() -> None:
    """Nothing stands out by more than the largest of 784 exponential numbers does."""
    noise = noisy(
        np.zeros((50, 16, 2, TONES), np.complex64), np.zeros(50), np.random.default_rng(1)
    )
    pictures = angle_delay_pictures(noise, BAND_HZ).astype(float)
    assert pictures.mean() > 130
    spread = pictures.mean(0)
    assert spread.max() < 1.25 * spread.min()
