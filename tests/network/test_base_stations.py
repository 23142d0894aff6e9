"""What base stations see: the same again, unlike from site to site, and of use for their beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.network import BaseStations, Soundings, base_stations, sounded
from mfd_flower.network.sounding import DEPTH_DB

FEW = BaseStations(sites=3, users=40, test_users=10)


@pytest.fixture(scope="module")
def town() -> Soundings:
    return sounded(BaseStations(sites=7, users=300, test_users=100))


def bytes_of(found: Soundings) -> list[bytes]:
    return [part.tobytes() for part in vars(found).values()]


def test_one_seed_gives_the_same_bytes_and_another_one_others() -> None:
    assert bytes_of(sounded(FEW)) == bytes_of(sounded(FEW))
    other = sounded(replace(FEW, seed=1))
    assert (other.pictures != sounded(FEW).pictures).any(axis=(1, 2, 3)).all()


def test_a_site_is_the_same_however_many_others_there_are() -> None:
    few, more = sounded(FEW), sounded(replace(FEW, sites=5))
    assert bytes_of(few) == bytes_of(more.at(np.flatnonzero(more.site < 3)))


def test_work_grows_as_terminals_do_and_room_for_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[int] = []
    channel = base_stations.channel

    def counted(rays: Any, *others: Any) -> Any:
        computed.append(rays.power.size)
        return channel(rays, *others)

    monkeypatch.setattr(base_stations, "channel", counted)
    totals = []
    for users in (500, 1000, 2000):
        computed.clear()
        sounded(BaseStations(sites=1, users=users, test_users=1))
        totals.append(sum(computed) / users)
        assert max(computed) <= base_stations.CHUNK * 20 * 20
    assert max(totals) < 1.1 * min(totals)


def shares(labels: np.ndarray, kinds: int = 16) -> np.ndarray:
    return np.bincount(labels, minlength=kinds) / len(labels)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the total variation between two sets of labels."""
    return float(np.abs(shares(one) - shares(other)).sum() / 2)


def test_sites_have_other_beams_than_each_other_and_the_same_ones_in_their_tests(
    town: Soundings,
) -> None:
    beams = [town.best_beam[(town.site == site) & ~town.is_test] for site in range(7)]
    tests = [town.best_beam[(town.site == site) & town.is_test] for site in range(7)]
    own = [apart(beams[site], tests[site]) for site in range(7)]
    others = [
        apart(beams[one], tests[other]) for one in range(7) for other in range(7) if one != other
    ]
    assert max(own) < 0.3
    assert np.mean(others) > 2 * np.mean(own)


def test_moved_hot_spots_bring_other_beams_to_the_same_surroundings() -> None:
    here = BaseStations(sites=4, users=300, test_users=300, hot_share=1.0)
    before, after = sounded(here), sounded(replace(here, moved_m=40.0))
    for site in range(4):
        mine = before.site == site
        again = apart(
            before.best_beam[mine & before.is_test], before.best_beam[mine & ~before.is_test]
        )
        moved = apart(before.best_beam[mine], after.best_beam[mine])
        assert moved > 1.5 * again


def test_with_line_of_sight_power_comes_from_fewer_places(town: Soundings) -> None:
    """Pixels within 10 dB of the strongest: the median without sight is twice that with it."""
    near_db = 255 * (1 - 10 / DEPTH_DB)
    bright = (town.pictures[..., 0] > near_db).sum((1, 2))
    assert 0.2 < town.sees.mean() < 0.8
    assert np.median(bright[~town.sees]) > 2 * np.median(bright[town.sees])
    assert (town.pictures.max((1, 2, 3)) == 255).all()


def loss_db(found: Soundings, chosen: np.ndarray) -> float:
    """Return what beams lose of the best one's power in the mean."""
    return float(found.loss_db(chosen[:, None]).mean())


def test_the_more_beams_are_tried_the_less_is_lost(town: Soundings) -> None:
    """By trying all nothing is lost; without the best one as much as the second is weaker."""
    order, ranked_db = np.argsort(-town.beam_snr_db, axis=1), np.sort(town.beam_snr_db, axis=1)
    np.testing.assert_allclose(town.loss_db(order[:, 1:]), ranked_db[:, -1] - ranked_db[:, -2])
    np.testing.assert_array_equal(town.loss_db(order), 0)
    np.testing.assert_array_equal(town.loss_db(town.best_beam[:, None]), 0)


def strongest_angles(found: Soundings) -> np.ndarray:
    """Return the beam next to the angle from which a picture has most power."""
    power = (10 ** (DEPTH_DB / 10 * (found.pictures[..., 0] / 255.0 - 1))).sum(1)
    return np.asarray(power.argmax(1) * 16 // 28)


def test_a_picture_tells_of_the_beam_and_the_better_the_nearer_the_downlink_is() -> None:
    here = BaseStations(sites=4, users=200, test_users=1)
    options: Sequence[dict[str, float]] = (
        {"duplex_hz": 0.0, "walked_m": 0.0},
        {},
        {"ut_dbm": -40.0},
    )
    losses_db = []
    for each in options:
        found = sounded(replace(here, **each))  # type: ignore[arg-type]
        losses_db.append(loss_db(found, strongest_angles(found)))
    same, apart_, faint = losses_db
    assert same < 1.5
    assert same < 0.75 * apart_
    assert apart_ < 0.3 * faint
    blind = loss_db(found, np.zeros(len(found.site), np.int64))
    assert faint < 0.8 * blind


@pytest.mark.parametrize("scenario", ["umi", "uma"])
def test_power_at_terminals_is_that_of_a_cell(scenario: Any) -> None:
    """The best beam gains 8 to 15 dB over an element; noise, loss and power are those of a cell.

    UMi: 44 dBm + 8 dBi - 105 dB (100 m, blocked) + 94 dBm (20 MHz, 7 dB) + 10 dB is about 51 dB.
    """
    found = sounded(BaseStations(scenario=scenario, sites=2, users=300, test_users=1))
    best_db = found.beam_snr_db.max(1)
    assert np.median(best_db[found.sees]) > np.median(best_db[~found.sees]) + 15
    assert 30 < np.median(best_db[~found.sees]) < 60


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"beams": 8}, "beams = 8: accepted: 16, 32"),
        ({"sites": 0}, "sites = 0: must be at least 1"),
        ({"scenario": "inh"}, "scenario = 'inh': accepted: umi, uma"),
        ({"spot_m": 60.0}, "data.options.spot_m = 60.0: at most 45 in a cell of 100 m"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        BaseStations(**options)
