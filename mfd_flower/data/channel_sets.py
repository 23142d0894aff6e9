"""Channels of base stations as image sets: which beam is best, or whether a terminal is in sight.

Each site is a client. Pictures, channels and sites of both sets are the same ones.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from mfd_flower.canonical_json import load_json
from mfd_flower.checks import build
from mfd_flower.data.image_set import ImageSet
from mfd_flower.network.base_stations import BaseStations, Soundings, sounded

SIGHT = ("blocked", "line-of-sight")


def beams_set(options: str) -> ImageSet:
    """Return pictures labelled by the beam that reaches the terminal best.

    Parameters
    ----------
    options
        Of `BaseStations`, as JSON.
    """
    found = beam_soundings(options)
    names = tuple(f"beam-{beam:02}" for beam in range(found.beam_snr_db.shape[1]))
    return _labelled(found, found.best_beam, names)


def beam_soundings(options: str) -> Soundings:
    """Return the soundings of the samples of `beams_set`, in its order."""
    here = _options(options)
    found = _sounded(here)
    return found.at(_few(found, found.best_beam, here.shots))


def sight_set(options: str) -> ImageSet:
    """Return pictures labelled by whether there is line of sight; `options` as in `beams_set`."""
    here = _options(options)
    found = _sounded(here)
    found = found.at(_few(found, found.sees, here.shots))
    return _labelled(found, found.sees.astype(np.int64), SIGHT)


def _options(options: str) -> BaseStations:
    found: BaseStations = build(BaseStations, load_json("data.options", options), "data.options.")
    return found


@functools.lru_cache(maxsize=2)
def _sounded(options: BaseStations) -> Soundings:
    return sounded(options)


def _few(found: Soundings, labels: NDArray[np.generic], shots: int) -> NDArray[np.int64]:
    """Return which terminals are in a set: of those that a site trains on, the first of each class.

    With `shots` of 0 all are.
    """
    if not shots:
        return np.arange(len(labels))
    groups = np.stack([found.site, labels, found.is_test], axis=1)
    _, group = np.unique(groups, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - starts[group[order]]
    return np.flatnonzero(found.is_test | (place < shots))


def _labelled(found: Soundings, labels: NDArray[np.int64], names: tuple[str, ...]) -> ImageSet:
    digits = len(str(found.site.max()))
    clients = np.array([f"site-{site:0{digits}}" for site in found.site.tolist()])
    return ImageSet(found.pictures, labels, names, clients, found.is_test)
