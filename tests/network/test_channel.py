"""Noise, signal to noise and rate by hand; fields that decorrelate as they say."""

from __future__ import annotations

import numpy as np
import pytest

from mfd_flower.network.channel import (
    DOWNLINK,
    UPLINK,
    noise_dbm,
    rate_bps,
    sinr_db,
)
from mfd_flower.network.fields import Field


def test_noise_by_hand() -> None:
    """k T is -173.975 dBm in 1 Hz: in 20 MHz -100.965, with a figure of 9 dB -91.965."""
    assert float(noise_dbm(20e6, 9)) == pytest.approx(-91.965, abs=0.001)


def test_noise_and_interference_add_in_watts() -> None:
    """-100 dBm of noise and two senders of -100 dBm are three times as much: 4.771 dB more."""
    assert float(sinr_db(-80, -100)) == pytest.approx(20)
    assert float(sinr_db(-80, -100, [-100, -100])) == pytest.approx(20 - 4.7712, abs=1e-4)
    assert float(sinr_db(-80, -100, [-np.inf, -100])) == pytest.approx(20 - 3.0103, abs=1e-4)
    found = sinr_db([-80, -90], -100, [[-100], [-np.inf]])
    assert found.tolist() == pytest.approx([16.9897, 10], abs=1e-4)


def test_rate_is_part_of_shannons_bound_up_to_a_cap() -> None:
    """At 10 dB log2(11) = 3.4594: 0.6 of it is 2.0757 bit/s/Hz down, 0.4 of it 1.3838 up."""
    assert float(rate_bps(20e6, 10)) == pytest.approx(41.513e6, rel=1e-4)
    assert float(rate_bps(20e6, 10, UPLINK)) == pytest.approx(27.675e6, rel=1e-4)
    assert rate_bps(1e6, [60, -10.01], DOWNLINK).tolist() == [4.4e6, 0.0]
    assert float(rate_bps(1e6, 60, UPLINK)) == 2e6
    assert (np.diff(rate_bps(1e6, np.linspace(-9, 40))) >= 0).all()


def test_a_field_is_normal_and_forgets_with_distance() -> None:
    """Over 4,000 fields: at distances of 0, 1/2, 1 and 3 times the one at which it falls to 1/e."""
    distances = np.array([0.0, 5.0, 10.0, 30.0])
    places = np.stack([distances, np.zeros(4)], axis=1) + 100
    values = np.array([Field(10.0, (7, number)).at(places) for number in range(4000)])
    assert values.mean(0) == pytest.approx([0] * 4, abs=0.06)
    assert values.var(0) == pytest.approx([1] * 4, abs=0.08)
    correlation = np.corrcoef(values.T)[0]
    assert correlation == pytest.approx(np.exp(-distances / 10), abs=0.06)
    kurtosis = ((values / values.std(0)) ** 4).mean(0)
    assert kurtosis == pytest.approx([3] * 4, abs=0.3)


def test_a_field_is_a_function_of_place_and_seed() -> None:
    places = np.random.default_rng(0).random((5, 7, 2)) * 1000
    field = Field(37.0, (1, 2))
    np.testing.assert_array_equal(field.at(places)[3], Field(37.0, (1, 2)).at(places[3]))
    assert (field.at(places) != Field(37.0, (1, 3)).at(places)).all()
