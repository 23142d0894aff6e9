"""Path loss: numbers worked out by hand from the tables, and an independent package."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.network import path_loss_db, sight_probability, street_loss_db
from mfd_flower.network.path_loss import shadowing_db, street_sight_probability

BY_HAND: list[tuple[str, float, float, float, float, bool, float]] = [
    # UMi, 3.5 GHz, 10 m and 1.5 m: breakpoint 4 x 9 x 0.5 x 3.5e9 / 3e8 = 210 m.
    # d3D of 100 m on the ground is 100.3606: 32.4 + 21 x 2.001563 + 20 x 0.544068 = 85.3142.
    ("umi", 100, 3.5e9, 10, 1.5, True, 85.3142),
    # d3D 500.0722: 32.4 + 40 x 2.699033 + 10.88136 - 9.5 log10(210^2 + 8.5^2) = 107.1138.
    ("umi", 500, 3.5e9, 10, 1.5, True, 107.1138),
    # 22.4 + 35.3 x 2.001563 + 21.3 x 0.544068 = 104.6438.
    ("umi", 100, 3.5e9, 10, 1.5, False, 104.6438),
    # UMa, 2 GHz, 25 m and 1.5 m: breakpoint 4 x 24 x 0.5 x 2e9 / 3e8 = 320 m.
    # d3D of 200 m is 201.3759: 28 + 22 x 2.304007 + 6.0206 = 84.7088.
    ("uma", 200, 2e9, 25, 1.5, True, 84.7088),
    # d3D 1000.2761: 28 + 40 x 3.000120 + 6.0206 - 9 log10(320^2 + 23.5^2) = 108.9117.
    ("uma", 1000, 2e9, 25, 1.5, True, 108.9117),
    # 13.54 + 39.08 x 3.000120 + 6.0206 = 136.8053.
    ("uma", 1000, 2e9, 25, 1.5, False, 136.8053),
    # RMa, 0.8 GHz, 35 m and 1.5 m: breakpoint 2 pi x 35 x 1.5 x 0.8e9 / 3e8 = 879.6459 m.
    # d3D of 500 m is 501.1212: 20 log10(40 pi 501.1212 x 0.8 / 3) = 84.5024; 0.03 x 5^1.72 =
    # 0.477914, times 2.699943 = 1.290341; 0.044 x 5^1.72 = 0.700940; 0.002 x 0.69897 x 501.1212 =
    # 0.700537: 85.7924.
    ("rma", 500, 0.8e9, 35, 1.5, True, 85.7924),
    # At the breakpoint 89.3897 + 1.407126 - 0.700940 + 1.229692 = 91.3256; behind it
    # 40 log10(3000.1870 / 879.6459) = 21.3135: 112.6392.
    ("rma", 3000, 0.8e9, 35, 1.5, True, 112.6392),
    # 161.04 - 9.237313 + 5.242275 - (24.37 - 3.7 / 49) x 1.544068 + (43.42 - 4.786611) x 0.477148
    # - 1.938200 - (3.2 x 1.552838 - 4.97) = 136.0292.
    ("rma", 3000, 0.8e9, 35, 1.5, False, 136.0292),
    # InH, 28 GHz, 3 m and 1 m: d3D of 20 m is 20.0998: 32.4 + 17.3 x 1.303191 + 28.94316.
    ("inh", 20, 28e9, 3, 1, True, 83.8884),
    # 17.3 + 38.3 x 1.303191 + 24.9 x 1.447158 = 103.2465.
    ("inh", 20, 28e9, 3, 1, False, 103.2465),
]


@pytest.mark.parametrize(("scenario", "d", "f", "h_bs", "h_ut", "sees", "expected"), BY_HAND)
def test_numbers_worked_out_by_hand(
    scenario: Any, d: float, f: float, h_bs: float, h_ut: float, sees: bool, expected: float
) -> None:
    assert float(path_loss_db(scenario, d, f, h_bs, h_ut, sees)) == pytest.approx(
        expected, abs=0.05
    )


HEIGHTS = {"umi": 10.0, "uma": 25.0, "rma": 35.0, "inh": 3.0}
MODULES = {
    "umi": "UMi_pathloss_model_00",
    "uma": "UMa_pathloss_model_06",
    "rma": "RMa_pathloss_model_08",
    "inh": "InH_pathloss_model_01",
}


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("scenario", ["umi", "uma", "rma", "inh"])
def test_an_independent_package_finds_the_same(scenario: Any, sees: bool) -> None:
    """CRRM, which writes the same tables in another form: at 7 distances x 3 carriers x 3 heights.

    It has no `h_E` but 1 m in UMa for terminals of up to 13 m either.
    """
    module = importlib.import_module(f"CRRM.{MODULES[scenario]}")
    name = {"umi": "UMi", "uma": "UMa", "rma": "RMa", "inh": "InH"}[scenario]
    distances = (
        [1.5, 4, 11, 25, 60, 99, 140] if scenario == "inh" else [10, 37, 120, 333, 800, 2100, 5000]
    )
    for ghz in (0.7, 3.5, 6.0):
        for h_ut in (1.5, 4.0, 9.0):
            d = np.array(distances, float)
            h_bs = HEIGHTS[scenario]
            theirs = getattr(module, f"{name}_pathloss")(fc_GHz=ghz, LOS=sees)
            users = np.stack([d, 0 * d, np.full(len(d), h_ut)], axis=1)
            cells = np.array([[0.0, 0.0, h_bs]])
            far = np.hypot(d, h_bs - h_ut)
            found = theirs.get_pathloss_dB(d[:, None], far[:, None], users, cells)[:, 0]
            ours = path_loss_db(scenario, d, ghz * 1e9, h_bs, h_ut, sees)
            np.testing.assert_allclose(ours, found, atol=1e-9)


@given(
    st.sampled_from(["umi", "uma", "rma"]),
    st.floats(10, 5000),
    st.floats(0.5e9, 30e9),
    st.floats(1.5, 10),
)
def test_farther_and_higher_in_frequency_loses_more_and_a_wall_never_helps(
    scenario: Any, d: float, f: float, h_ut: float
) -> None:
    near = path_loss_db(scenario, d, f, HEIGHTS[scenario], h_ut, [True, False])
    assert near[1] >= near[0]
    assert (
        path_loss_db(scenario, min(1.01 * d, 5000), f, HEIGHTS[scenario], h_ut, [True, False])
        >= near - 1e-9
    ).all()
    assert 30 < near[0] < 220


@pytest.mark.parametrize("scenario", ["umi", "uma", "rma"])
def test_the_loss_has_no_step_at_the_breakpoint(scenario: Any) -> None:
    h_bs, h_ut, f = HEIGHTS[scenario], 1.5, 2e9
    ends = (
        2 * math.pi * h_bs * h_ut * f / 3e8 if scenario == "rma" else 4 * (h_bs - 1) * 0.5 * f / 3e8
    )
    before, behind = path_loss_db(scenario, [ends * 0.999999, ends * 1.000001], f, h_bs, h_ut, True)
    assert behind == pytest.approx(before, abs=0.01)


def test_sight_is_sure_near_by_and_falls() -> None:
    """Table 7.4.2-1 by hand: UMi at 50 m 0.36 + exp(-50 / 36) x 0.64 = 0.5196."""
    assert float(sight_probability("umi", 50)) == pytest.approx(0.5196, abs=1e-4)
    # UMa at 100 m: 0.18 + exp(-100 / 63) x 0.82 = 0.3477; at 20 m of height x 1 + 0.7^1.5 x 1.25 x
    # exp(-2 / 3) = 1.3758.
    assert float(sight_probability("uma", 100)) == pytest.approx(0.3477, abs=1e-4)
    assert float(sight_probability("uma", 100, 20)) == pytest.approx(0.4784, abs=1e-4)
    assert float(sight_probability("rma", 1010)) == pytest.approx(math.exp(-1))
    assert float(sight_probability("inh", 3)) == pytest.approx(math.exp(-1.8 / 4.7))
    assert float(sight_probability("inh", 39.1)) == pytest.approx(0.32 / math.e)
    assert float(street_sight_probability("urban", 100)) == pytest.approx(0.3358, abs=1e-4)
    assert float(street_sight_probability("highway", 100)) == pytest.approx(0.8403, abs=1e-4)
    assert float(street_sight_probability("highway", 500)) == pytest.approx(0.515)
    for scenario in ("umi", "uma", "rma", "inh"):
        found = sight_probability(scenario, np.arange(1, 3000.0))  # type: ignore[arg-type]
        assert found[0] == 1.0
        assert (np.diff(found) <= 1e-12).all()
        assert (found >= 0).all()


def test_streets_by_hand() -> None:
    """Table 6.2.1-2 at 100 m and 5.9 GHz: 38.77 + 33.4 + 18.2 x 0.770852 = 86.1995 and so on."""
    assert float(street_loss_db("urban", 100, 5.9e9)) == pytest.approx(86.1995, abs=1e-3)
    assert float(street_loss_db("highway", 100, 5.9e9)) == pytest.approx(87.8170, abs=1e-3)
    assert float(street_loss_db("urban", 100, 5.9e9, False)) == pytest.approx(111.4191, abs=1e-3)


def test_shadowing_of_the_country_grows_behind_the_breakpoint() -> None:
    found = shadowing_db("rma", [500, 3000, 3000], 0.8e9, 35, 1.5, [True, True, False])
    assert found.tolist() == [4.0, 6.0, 8.0]
    assert shadowing_db("umi", [50, 50], 3.5e9, 10, 1.5, [True, False]).tolist() == [4.0, 7.82]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"scenario": "moon"}, "scenario = 'moon': accepted: umi, uma, rma, inh"),
        ({"distance_2d_m": 0}, "distance_2d_m = 0.0: accepted: from 10 to 5000"),
        ({"distance_2d_m": [20, -5]}, "distance_2d_m = -5.0: accepted: from 10 to 5000"),
        ({"distance_2d_m": math.nan}, "distance_2d_m = nan: accepted: from 10 to 5000"),
        ({"distance_2d_m": "far"}, "distance_2d_m = 'far': a number or an array of numbers"),
        ({"carrier_hz": 0.4e9}, "carrier_hz = 400000000.0: accepted: from 5e+08 to 1e+11"),
        ({"carrier_hz": 101e9}, "carrier_hz = 101000000000.0: accepted: from 5e+08 to 1e+11"),
        ({"h_ut_m": 30}, "h_ut_m = 30.0: accepted: from 1.5 to 22.5"),
        (
            {"scenario": "inh", "distance_2d_m": 0, "h_bs_m": 3},
            "distance_2d_m = 0.0: accepted: above 0",
        ),
        (
            {"scenario": "rma", "distance_2d_m": 6000, "h_bs_m": 35, "line_of_sight": False},
            "distance_2d_m without line of sight = 6000.0: accepted: from 10 to 5000",
        ),
    ],
)
def test_what_the_tables_do_not_cover_is_one_line(given: dict[str, Any], line: str) -> None:
    usual = {"scenario": "umi", "distance_2d_m": 50, "carrier_hz": 3.5e9, "h_bs_m": 10}
    usual |= {"h_ut_m": 1.5, "line_of_sight": True}
    with pytest.raises(ConfigError) as refused:
        path_loss_db(**{**usual, **given})  # type: ignore[arg-type]
    assert str(refused.value).startswith(line)
