"""A panel hears a wave from where it comes; its beams share out all of the power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.network.multipath import Rays
from mfd_flower.network.panel import (
    COLUMNS,
    ROWS,
    beam_turns,
    beams_db,
    channel,
    element_db,
    sector_of,
)

TONES_HZ = np.arange(-8, 8) * 1e6


def lone_ray(azimuth_rad: float, delay_s: float = 0.0, zenith_rad: float = np.pi / 2) -> Rays:
    """Return one ray to one terminal."""
    one = np.ones((1, 1, 1))
    angles = azimuth_rad * one, zenith_rad * one, 0 * one
    return Rays(one, np.full((1, 1), delay_s), *angles, np.zeros(1))


def heard(rays: Rays, boresight_rad: float = 0.0) -> np.ndarray:
    """Return what a panel hears of rays without phases."""
    return channel(rays, np.full(1, boresight_rad), np.zeros(rays.power.shape), TONES_HZ)


def test_an_element_hears_half_at_half_its_width_and_little_from_behind() -> None:
    """TR 38.901, table 7.3-1: 3 dB at 32.5 degrees, 30 dB behind."""
    assert float(element_db(0.0, np.pi / 2)) == 0
    for azimuth_deg, zenith_deg in ((32.5, 90), (-32.5, 90), (0, 57.5), (360 + 32.5, 90)):
        found = element_db(np.radians(azimuth_deg), np.radians(zenith_deg))
        assert float(found) == pytest.approx(-3)
    assert float(element_db(np.pi, np.pi / 2)) == -30
    assert float(element_db(np.pi, np.radians(57.5))) == -30


@settings(max_examples=50, deadline=None)
@given(st.floats(-1.4, 1.4), st.floats(-7, 7), st.sampled_from([16, 32]))
def test_the_best_beam_points_where_a_lone_wave_goes(
    azimuth_rad: float, boresight_rad: float, beams: int
) -> None:
    gains = beams_db(heard(lone_ray(azimuth_rad + boresight_rad), boresight_rad), beams)[0]
    off = np.abs((beam_turns(beams) - np.sin(azimuth_rad) + 1) % 2 - 1)
    assert gains.argmax() in np.flatnonzero(off < off.min() + 1e-4)


def test_a_beam_gains_as_many_times_as_there_are_elements() -> None:
    """10 log10(32) = 15.05 dB in its direction, and half a beam aside 3.92 dB less."""
    for beam, turn in enumerate(beam_turns(16)[3:-3], 3):
        azimuth = float(np.arcsin(turn))
        pattern_db = float(element_db(azimuth, np.pi / 2))
        gain_db = beams_db(heard(lone_ray(azimuth)), 16)[0, beam]
        assert gain_db - pattern_db == pytest.approx(10 * np.log10(COLUMNS * ROWS), abs=0.01)
    between = beams_db(heard(lone_ray(0.0)), 16)[0]
    assert between.max() == pytest.approx(15.05 - 3.92, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_sixteen_beams_share_out_all_power_whose_rows_are_in_phase(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((3, COLUMNS, 1, 4)) + 1j * rng.standard_normal((3, COLUMNS, 1, 4))
    alike = np.repeat(columns, ROWS, axis=2).astype(np.complex64)
    total = (10 ** (beams_db(alike, 16) / 10)).sum(1)
    np.testing.assert_allclose(total, (np.abs(alike) ** 2).sum((1, 2)).mean(1), rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 5e-6), st.floats(-0.5, 0.5), st.floats(1.2, 1.9))
def test_a_wave_turns_by_its_delay_from_tone_to_tone_and_by_its_angle_from_column_to_column(
    delay_s: float, azimuth_rad: float, zenith_rad: float
) -> None:
    found = heard(lone_ray(azimuth_rad, delay_s, zenith_rad))[0]
    by_tone = found[..., 1:] / found[..., :-1]
    np.testing.assert_allclose(by_tone, np.exp(-2j * np.pi * 1e6 * delay_s), atol=2e-3)
    by_column = found[1:] / found[:-1]
    side = np.sin(zenith_rad) * np.sin(azimuth_rad)
    np.testing.assert_allclose(by_column, np.exp(1j * np.pi * side), atol=2e-3)
    by_row = found[:, 1:] / found[:, :-1]
    np.testing.assert_allclose(by_row, np.exp(1j * np.pi * np.cos(zenith_rad)), atol=2e-3)


def test_a_terminal_belongs_to_the_sector_that_looks_at_it() -> None:
    towards = np.radians([30, 89, 91, 150, 209, 211, 270, -31, -29])
    offsets_m = 50 * np.stack([np.cos(towards), np.sin(towards)], axis=1)
    assert sector_of(offsets_m).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 0]
