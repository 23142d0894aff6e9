"""Cells and rates: by hand where it can be done, else what sharing and walls must do to them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig
from mfd_flower.network import PROFILES, WirelessOptions, WirelessWorld, path_loss_db
from mfd_flower.network.cells import Cells, Serving, lattice_m
from mfd_flower.network.world import EDGE, Transfer


def world(nodes: int = 20, seed: int = 0, **options: Any) -> WirelessWorld:
    return WirelessWorld(NetworkConfig(), nodes, seed, WirelessOptions(**options))


def up(*nodes: int) -> list[Transfer]:
    return [Transfer(f"n{node}", EDGE, "up") for node in nodes]


def down(*nodes: int) -> list[Transfer]:
    return [Transfer(EDGE, f"n{node}", "down") for node in nodes]


@pytest.mark.parametrize(("wide", "high"), [(600, 600), (100, 100), (1000, 180), (199, 900)])
def test_sites_are_as_far_apart_as_asked_and_inside(wide: float, high: float) -> None:
    sites = lattice_m(wide, high, 200.0)
    assert ((sites >= 0) & (sites <= [wide, high])).all()
    gaps = np.linalg.norm(sites[:, None] - sites, axis=2)[~np.eye(len(sites), dtype=bool)]
    assert gaps.min(initial=200) == pytest.approx(200)


@pytest.mark.parametrize("scenario", ["umi", "uma", "rma", "inh"])
def test_gains_scatter_around_the_path_loss_with_the_spread_of_the_table(scenario: Any) -> None:
    """At one distance over 3,000 sites: each is with or without line of sight as likely as said."""
    far = 40.0 if scenario == "inh" else 120.0
    sites = np.zeros((3000, 2))
    h_bs = {"umi": 10.0, "uma": 25.0, "rma": 35.0, "inh": 3.0}[scenario]
    cells = Cells(scenario, sites, 3.5e9, h_bs, 1.5, 0)
    found = -cells.gains_db(np.array([[far, 0.0]]))[0]
    clear, blocked = (
        float(path_loss_db(scenario, far, 3.5e9, h_bs, 1.5, s)) for s in (True, False)
    )
    share = float(cells.place.sees(np.array(far), np.array(1.5)))
    spread_clear, spread_blocked = cells.place.shadowing_db
    assert found.mean() == pytest.approx(share * clear + (1 - share) * blocked, abs=1.0)
    variance = share * spread_clear**2 + (1 - share) * spread_blocked**2
    variance += share * (1 - share) * (blocked - clear) ** 2
    assert found.std() == pytest.approx(math.sqrt(variance), rel=0.06)


def test_a_cell_takes_over_when_it_has_been_stronger_for_long_enough() -> None:
    gains = np.array([[-80.0, -90.0], [-90.0, -80.0]])
    serving = Serving(gains, 3.0, 2)
    assert serving.sites.tolist() == [0, 1]
    better = np.array([[-80.0, -76.0], [-82.0, -80.0]])
    assert serving.step(better).tolist() == [0, 1]
    assert serving.step(better).tolist() == [1, 1]
    flicker = np.array([[-70.0, -76.0], [-82.0, -80.0]])
    assert serving.step(flicker).tolist() == [1, 1]
    assert serving.step(better).tolist() == [1, 1]
    assert serving.step(flicker).tolist() == [1, 1]
    assert serving.step(flicker).tolist() == [0, 1]


def test_a_lone_message_gets_what_the_formulas_say() -> None:
    """Rates from gains by hand: 23 dBm, 8 dBi, noise of 20 MHz with 5 dB is -95.965 dBm."""
    here = world()
    gains = here.cells.coverage.at(0.0).gains_db
    site = int(here.cells.coverage.at(0.0).serving[3])
    ratio = 23 + 8 + gains[3, site] + 95.9648
    expected = 20e6 * min(0.4 * math.log2(1 + 10 ** (ratio / 10)), 2.0)
    assert float(here.rates_bps(up(3), 0.0)[0]) == pytest.approx(expected, rel=1e-4)
    ratio = 44 + 8 + gains[3, site] + 93.9648
    expected = 20e6 * min(0.6 * math.log2(1 + 10 ** (ratio / 10)), 4.4)
    assert float(here.rates_bps(down(3), 0.0)[0]) == pytest.approx(expected, rel=1e-4)


def test_messages_share_their_cells_band_and_disturb_other_cells() -> None:
    here = world(nodes=60, seed=2)
    serving = here.cells.coverage.at(0.0).serving
    one = int(np.bincount(serving).argmax())
    inside, outside = np.flatnonzero(serving == one)[:4], np.flatnonzero(serving != one)[:8]
    for link in (up, down):
        alone = here.rates_bps(link(int(inside[0])), 0.0)[0]
        together = here.rates_bps(link(*map(int, inside)), 0.0)
        # A sender has all of its power in less of the band: more than a quarter each, up.
        assert alone / 4 - 1e-6 <= together[0] <= alone
        disturbed = here.rates_bps(link(int(inside[0]), *map(int, outside)), 0.0)[0]
        assert disturbed <= alone
    loaded = world(nodes=60, seed=2, load=0.5)
    assert loaded.rates_bps(down(5), 0.0)[0] < 0.6 * here.rates_bps(down(5), 0.0)[0]


def test_sending_up_is_slower_than_down() -> None:
    here = world(nodes=100, seed=1, scenario="uma", width_m=1500, height_m=1500)
    ups = np.array([here.rates_bps(up(node), 0.0)[0] for node in range(100)])
    downs = np.array([here.rates_bps(down(node), 0.0)[0] for node in range(100)])
    assert (ups <= downs).all()
    assert np.median(downs) > 2 * np.median(ups)


def test_neighbours_are_mutual_near_and_heard() -> None:
    here = world(nodes=80, seed=3)
    places = here.places.in_step(0)
    found = {name: here.neighbours(name, 0.0) for name in (f"n{node}" for node in range(80))}
    for name, others in found.items():
        for other in others:
            assert name in found[other]
            far = np.linalg.norm(places[int(name[1:])] - places[int(other[1:])])
            assert far <= here.options.d2d_range_m
            there, back = (
                float(here.rates_bps([Transfer(a, b, "d2d")], 0.0)[0])
                for a, b in ((name, other), (other, name))
            )
            assert there == pytest.approx(back)
            assert there > 0
    one, *_ = found["n0"]
    alone = here.rates_bps([Transfer("n0", one, "d2d")], 0.0)[0]
    pair = [Transfer("n0", one, "d2d"), Transfer(one, "n0", "d2d")]
    assert here.rates_bps(pair, 0.0)[0] < alone
    far_off = np.linalg.norm(places - places[0], axis=1).argmax()
    assert here.rates_bps([Transfer("n0", f"n{far_off}", "d2d")], 0.0)[0] == 0


def test_one_sender_has_the_rates_that_it_has_beside_one_who_is_not_heard(
    tmp_path: Path,
) -> None:
    """Both ways to work them out, for one and for several senders, agree."""
    trace = tmp_path / "places.csv"
    places = [(0, 0), (20, 0), (60, 10), (90, 0), (150, 0), (9000, 9000), (9010, 9000)]
    lines = [f"{node},0,{x},{y}" for node, (x, y) in enumerate(places)]
    trace.write_text("\n".join(["node,time_s,x_m,y_m", *lines]) + "\n")
    here = world(7, mobility=f"trace:{trace}")
    ours = [Transfer("n0", f"n{node}", "d2d") for node in (1, 2, 3, 4)]
    alone = here.rates_bps(ours, 0.0)
    beside = here.rates_bps([*ours, Transfer("n5", "n6", "d2d")], 0.0)[:4]
    assert (alone[:3] > 0).all()
    assert alone[3] == 0
    np.testing.assert_allclose(alone, beside, rtol=1e-4)


@pytest.mark.parametrize("mobility", ["static", "waypoint"])
def test_links_have_the_rates_of_what_is_sent_alone(mobility: str) -> None:
    here = world(nodes=40, mobility=mobility)
    here.spend("n3", 1e9, 0.0)
    others = [f"n{node}" for node in range(1, 40)]
    for at_s in (0.0, 70.5):
        alone = [here.rates_bps([Transfer("n0", name, "d2d")], at_s)[0] for name in others]
        np.testing.assert_allclose(here.links_bps("n0", others, at_s), alone, rtol=1e-9)
        assert 0 < np.count_nonzero(alone) < 39


def test_base_stations_cost_nothing_where_nobody_speaks_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("gains were worked out")

    monkeypatch.setattr(Cells, "gains_db", refuse)
    here = world(nodes=40, mobility="waypoint")
    for at_s in (0.0, 55.0):
        near = here.neighbours("n0", at_s)
        assert (here.rates_bps([Transfer("n0", name, "d2d") for name in near], at_s) > 0).all()
    with pytest.raises(AssertionError, match="gains"):
        here.rates_bps(up(0), 0.0)


@pytest.mark.parametrize("mobility", ["waypoint", "gauss-markov", "manhattan"])
def test_a_moving_world_is_a_function_of_seed_and_time(mobility: str) -> None:
    """Times asked for in another order, and twice, give the same; handovers too."""
    moving = {"mobility": mobility, "low_m_per_s": 8.0, "high_m_per_s": 14.0}
    times = [0.0, 90.5, 30.2, 90.5, 300.0, 30.2]
    here = world(seed=4, **moving)
    found = [here.rates_bps([*up(1, 2), *down(3)], at_s) for at_s in times]
    for at_s, rates in zip(times, found, strict=True):
        again = world(seed=4, **moving).rates_bps([*up(1, 2), *down(3)], at_s)
        np.testing.assert_array_equal(again, rates)
    assert not np.array_equal(found[0], found[1])
    assert here.next_change_s(30.2) == 31.0
    assert world(seed=4).next_change_s(30.2) == math.inf
    serving = np.array([here.cells.coverage.at(float(at_s)).serving for at_s in range(300)])
    assert (np.diff(serving, axis=0) != 0).any()


def test_devices_are_dealt_evenly_and_can_be_slowed() -> None:
    here = world(nodes=30, slowed={"n7": 10.0})
    kinds = [here._profile(f"n{node}") for node in range(30)]
    assert [kinds.count(PROFILES[name]) for name in here.options.devices] == [10, 10, 10]
    profile = kinds[7]
    assert here.device("n7").flops_per_s == pytest.approx(profile.flops_per_s / 10)
    assert here.device("n7").joules_per_flop == profile.joules_per_flop
    assert here.device(EDGE).flops_per_s > 1e13


def test_energy_of_a_phone_by_hand() -> None:
    """3.3 GHz, half of 32 FLOPs a cycle: 52.8 GFLOP/s; 1e-28 x 3.3e9^2 / 16 = 6.806e-11 J."""
    device = PROFILES["phone-high"].device()
    assert device.flops_per_s == pytest.approx(52.8e9)
    assert device.joules_per_flop == pytest.approx(6.80625e-11)
    assert PROFILES["phone-high"].battery_j == pytest.approx(69_300)
    board = PROFILES["edge-server"]
    assert board.joules_per_flop * board.flops_per_s == pytest.approx(72)


def test_a_battery_runs_down() -> None:
    here = world()
    left = here.battery_left_j("n1")
    here.spend("n1", left - 1, 0.0)
    assert here.available("n1", 0.0)
    here.spend("n1", 2, 0.0)
    assert not here.available("n1", 0.0)
    assert here.available("n2", 0.0)
    here.spend(EDGE, 1e12, 0.0)
    assert here.available(EDGE, 0.0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"scenario": "moon"}, "scenario = 'moon': "),
        ({"carrier_hz": 1e8}, "carrier_hz = 100000000.0: "),
        (
            {"mobility": "beam"},
            "network.options.mobility = 'beam': accepted: static",
        ),
        (
            {"devices": ("fridge",)},
            "network.options.devices = 'fridge': accepted: phone",
        ),
        ({"devices": ()}, "network.options.devices = []: one or more of phone-high"),
        ({"mobility": "waypoint", "high_m_per_s": 0.1}, "high_m_per_s = 0.1: at least 0.8"),
        ({"load": 1.0}, "load = 1.0: "),
    ],
)
def test_a_bad_option_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        world(**options)
    assert str(refused.value).startswith(line)


def test_less_band_up_makes_the_way_up_slower_alone() -> None:
    even, narrow = world(), world(up_hz=4e6)
    for node in range(5):
        up_ratio = even.rates_bps(up(node), 0.0)[0] / narrow.rates_bps(up(node), 0.0)[0]
        # A sender has all its power in what it uses, so that a fifth of the band is heard better.
        assert 2.0 < up_ratio <= 5.0 + 1e-9
    both = [each.rates_bps(down(1, 2), 0.0) for each in (even, narrow)]
    np.testing.assert_array_equal(*both)
    hertz = narrow.spectrum_hz_s(up(0)[0], 1000, 0.0, math.inf)
    assert hertz == pytest.approx(4e6 * 8000 / narrow.rates_bps(up(0), 0.0)[0])
