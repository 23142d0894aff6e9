"""Base stations that sound their terminals: what each sees of them, and which beams reach them.

Sites have three sectors and a round cell, that of a hexagonal layout without its corners.
A terminal sends sounding tones; the sector that looks most towards it makes a picture of them. What
the best beam is follows from the downlink, on another carrier and a moment later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError, bounded, check_fields
from mfd_flower.network.channel import noise_dbm
from mfd_flower.network.hot_spots import NEAREST_M, places_in_cell_m
from mfd_flower.network.multipath import Air, Rays
from mfd_flower.network.panel import BORESIGHTS_RAD, Floats, beams_db, channel, sector_of
from mfd_flower.network.path_loss import path_loss_db, shadowing_db
from mfd_flower.network.sounding import angle_delay_pictures, lead_s, noisy, tones_hz
from mfd_flower.network.surroundings import Surroundings
from mfd_flower.network.tr38901 import LIGHT_M_PER_S
from mfd_flower.network.tr38901_spreads import ClusterScenario
from mfd_flower.network.wireless_options import (
    DEFAULT_BS_DBM,
    DEFAULT_H_BS_M,
    DEFAULT_SITES_M,
    WirelessOptions,
)

H_UT_M = 1.5
PLACES, SMALL_SCALE = 22, 23
"""Purposes of seeds."""
CHUNK = 128
"""Terminals that are computed together."""


@dataclass(frozen=True)
class BaseStations:
    """What the base stations and their terminals are like."""

    scenario: ClusterScenario = "umi"
    """Of 3GPP TR 38.901: street canyon or urban macro."""
    sites: int = bounded(19, 1, 127)
    site_distance_m: float = bounded(0.0, 0.0)
    """Between neighbours; 0 is the report's distance for the scenario."""
    users: int = bounded(256, 1, 100_000)
    """Terminals of a site that it is trained on."""
    test_users: int = bounded(64, 1, 100_000)
    """Further terminals of each site, for the test set."""
    shots: int = bounded(64, 0)
    """Terminals of a class that a site trains on at most; 0 is all."""
    hot_spots: int = bounded(3, 0, 100)
    """Of each site, where most of its terminals are."""
    spot_m: float = bounded(15.0, 0.0, open_low=True)
    """Radius of a hot spot."""
    hot_share: float = bounded(0.8, 0.0, 1.0)
    """Of the terminals; the others are anywhere in the cell."""
    moved_m: float = bounded(0.0, 0.0)
    """How far each hot spot has moved round its base station: the surroundings are as they were."""
    carrier_hz: float = bounded(3.5e9, 0.5e9, 100e9)
    """Of the uplink."""
    band_hz: float = bounded(20e6, 1e6, 400e6)
    """That is sounded, and that beams are measured over."""
    duplex_hz: float = bounded(100e6, 0.0, 1e9)
    """From the uplink's carrier to the downlink's: that of band 22, 3GPP TS 36.101 v17.5.0, table
    5.5-1. With 0 they are one."""
    walked_m: float = bounded(0.05, 0.0, 10.0)
    """How far a terminal goes between being sounded and served."""
    ut_dbm: float = bounded(WirelessOptions.ut_dbm, -40.0, 33.0)
    """Power of a terminal, spread over the band; a base station has many times as much."""
    beams: Literal[16, 32] = 16
    """Of a sector's codebook."""
    seed: int = bounded(0, 0)
    """Draws surroundings and terminals; a run's seed does not."""

    def __post_init__(self) -> None:
        check_fields(BaseStations, self, ConfigError)
        if self.cell_m < NEAREST_M + 2 * self.spot_m:
            accepted = f"at most {(self.cell_m - NEAREST_M) / 2:g} in a cell of {self.cell_m:g} m"
            raise ConfigError("data.options.spot_m", self.spot_m, accepted)

    @property
    def cell_m(self) -> float:
        """Radius of a cell: half of the way to the next site."""
        return (self.site_distance_m or DEFAULT_SITES_M[self.scenario]) / 2

    @property
    def air(self) -> Air:
        """What the links have in common."""
        return Air(self.scenario, self.carrier_hz, DEFAULT_H_BS_M[self.scenario], H_UT_M)


@dataclass(frozen=True, eq=False)
class Soundings:
    """Terminals of base stations, ``(users,)`` each, one site after another."""

    pictures: NDArray[np.uint8]
    """Power over delay and angle, ``(users, height, width, 1)``."""
    beam_snr_db: Floats
    """Of each beam of the downlink at the terminal, ``(users, beams)``."""
    sees: NDArray[np.bool_]
    """Whether there is line of sight."""
    site: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    """The last `test_users` of each site."""

    def at(self, users: NDArray[np.int64]) -> Soundings:
        """Return some of the terminals."""
        return Soundings(
            self.pictures[users],
            self.beam_snr_db[users],
            self.sees[users],
            self.site[users],
            self.is_test[users],
        )

    def loss_db(self, tried: NDArray[np.int64]) -> Floats:
        """Return by how much the best beam beats the best of those that are tried, ``(users,)``.

        `tried` has beams of each terminal, ``(users, some)``.
        """
        found_db = np.take_along_axis(self.beam_snr_db, tried, axis=1).max(1)
        return self.beam_snr_db.max(1) - found_db

    @property
    def best_beam(self) -> NDArray[np.int64]:
        """The beam that reaches each terminal with the most power."""
        return self.beam_snr_db.argmax(1)


def sounded(options: BaseStations) -> Soundings:
    """Return what all sites see; a site is the same however many others there are."""
    sites = [_site(options, site) for site in range(options.sites)]
    pictures, beams, sees = (np.concatenate(parts) for parts in zip(*sites, strict=True))
    per_site = options.users + options.test_users
    is_test = np.tile(np.arange(per_site) >= options.users, options.sites)
    return Soundings(pictures, beams, sees, np.repeat(np.arange(options.sites), per_site), is_test)


def _site(options: BaseStations, site: int) -> tuple[NDArray[np.uint8], Floats, NDArray[np.bool_]]:
    """Return pictures, beams over noise and line of sight of the terminals of a site."""
    count, here = options.users + options.test_users, options
    drawn = np.random.default_rng([here.seed, site, PLACES])
    spots = here.hot_spots, here.spot_m, here.hot_share, here.moved_m
    offsets_m = places_in_cell_m(count, here.cell_m, *spots, drawn)
    around = Surroundings(here.air, (here.seed, site))
    sees = around.sees(offsets_m)
    rng = np.random.default_rng([here.seed, site, SMALL_SCALE])
    parts = list(_parts(sees))
    seen = [_both_ways(here, around, offsets_m[part], bool(sees[part[0]]), rng) for part in parts]
    order = np.argsort(np.concatenate(parts))
    pictures, beams = (np.concatenate(each)[order] for each in zip(*seen, strict=True))
    return pictures, beams, sees


def _parts(sees: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of terminals that are computed together: all have line of sight or none."""
    for clear in (True, False):
        alike = np.flatnonzero(sees == clear)
        yield from (alike[start : start + CHUNK] for start in range(0, len(alike), CHUNK))


def _both_ways(
    here: BaseStations,
    around: Surroundings,
    offsets_m: Floats,
    sees: bool,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], Floats]:
    """Return pictures of the uplink, and the downlink's beams over noise, in dB."""
    rays = around.rays(offsets_m, sees)
    boresight_rad = BORESIGHTS_RAD[sector_of(offsets_m)]
    gain_db = WirelessOptions.bs_gain_db - _loss_db(here.air, offsets_m, sees, rays)
    phases_rad = rng.random(rays.power.shape) * 2 * np.pi
    tones = tones_hz(here.band_hz)
    up = channel(rays, boresight_rad, phases_rad, tones, lead_s(here.band_hz))
    up_noise_dbm = noise_dbm(here.band_hz, WirelessOptions.bs_noise_db)
    heard = noisy(up, here.ut_dbm + gain_db - up_noise_dbm, rng)
    heading_rad = rng.random((len(offsets_m), 1, 1)) * 2 * np.pi
    walked = here.walked_m * (here.carrier_hz + here.duplex_hz) / LIGHT_M_PER_S
    turned_rad = 2 * np.pi * walked * np.cos(rays.arrival_rad - heading_rad)
    turned_rad -= 2 * np.pi * here.duplex_hz * rays.delay_s[..., None]
    down = channel(rays, boresight_rad, phases_rad + turned_rad, tones)
    down_noise_dbm = noise_dbm(here.band_hz, WirelessOptions.ut_noise_db)
    over_noise_db = DEFAULT_BS_DBM[here.scenario] + gain_db - down_noise_dbm
    pictures = angle_delay_pictures(heard, here.band_hz)
    return pictures, beams_db(down, here.beams) + over_noise_db[:, None]


def _loss_db(air: Air, offsets_m: Floats, sees: bool, rays: Rays) -> Floats:
    distance_m = np.maximum(np.linalg.norm(offsets_m, axis=1), NEAREST_M)
    link = distance_m, air.carrier_hz, air.h_bs_m, air.h_ut_m, sees
    shadow = rays.shadowing * shadowing_db(air.scenario, *link)
    return path_loss_db(air.scenario, *link) - shadow
