"""What the air takes away between two antennas, and whether they see each other.

The scenarios `umi`, `uma`, `rma` and `inh` lie between a base station and a terminal
(`mfd_flower.network.tr38901`), `urban` and `highway` between two terminals at street level
(`mfd_flower.network.tr37885`). All functions take arrays, which broadcast, and refuse what the
reports give no formula for.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.network import tr37885
from mfd_flower.network.tr38901 import PLACES, Place, distance_3d, rural_breakpoint_m

Floats = NDArray[np.float64]
CellScenario = Literal["umi", "uma", "rma", "inh"]
StreetScenario = Literal["urban", "highway"]
STREET_M = (1.0, 10_000.0)
"""Between the antennas of two terminals: nearer than 1 m the formulas would amplify."""
STREET_HZ = (0.5e9, 100e9)
INDOOR_M = (1.0, 150.0)
"""Between the antennas of `inh`, table 7.4.1-1."""


def path_loss_db(
    scenario: CellScenario,
    distance_2d_m: ArrayLike,
    carrier_hz: ArrayLike,
    h_bs_m: ArrayLike,
    h_ut_m: ArrayLike,
    line_of_sight: ArrayLike,
) -> Floats:
    """Return the median path loss between a base station and a terminal.

    3GPP TR 38.901 v17.0.0, table 7.4.1-1. Without line of sight it is at least that with it.

    Parameters
    ----------
    scenario : {"umi", "uma", "rma", "inh"}
        Street canyon, urban macro, rural macro, indoor hotspot in an office.
    distance_2d_m : array_like
        Distance on the ground, in metres.
    carrier_hz : array_like
        Carrier frequency, in Hz.
    h_bs_m, h_ut_m : array_like
        Heights of the antennas, in metres.
    line_of_sight : array_like of bool
        Whether nothing stands between them.

    Returns
    -------
    ndarray
        In dB, of the shape that the arguments broadcast to.

    Raises
    ------
    ConfigError
        For an unknown scenario, or a number for which the table has no formula.
    """
    place = _place(scenario)
    sees = np.asarray(line_of_sight, bool)
    d, f, h_bs, h_ut = _checked(place, distance_2d_m, carrier_hz, h_bs_m, h_ut_m, sees)
    if scenario == "inh":
        _within("distance_3d_m", distance_3d(d, h_bs, h_ut), *INDOOR_M)
    clear_db = place.line_of_sight_db(d, f, h_bs, h_ut)
    blocked_db = np.maximum(clear_db, place.blocked_db(d, f, h_bs, h_ut))
    return np.where(sees, clear_db, blocked_db)


def sight_probability(
    scenario: CellScenario, distance_2d_m: ArrayLike, h_ut_m: ArrayLike = 1.5
) -> Floats:
    """Return how likely a terminal sees a base station.

    3GPP TR 38.901 v17.0.0, table 7.4.2-1; `inh` is the mixed office. Arguments, errors and shape as
    in `path_loss_db`.
    """
    place = _place(scenario)
    d = _within("distance_2d_m", distance_2d_m, 0.0, np.inf, open_low=scenario != "inh")
    return place.sees(d, _within("h_ut_m", h_ut_m, *place.h_ut_m))


def shadowing_db(
    scenario: CellScenario,
    distance_2d_m: ArrayLike,
    carrier_hz: ArrayLike,
    h_bs_m: ArrayLike,
    h_ut_m: ArrayLike,
    line_of_sight: ArrayLike,
) -> Floats:
    """Return the standard deviation of log-normal shadowing around `path_loss_db`, in dB."""
    place = _place(scenario)
    sees = np.asarray(line_of_sight, bool)
    d, f, h_bs, h_ut = _checked(place, distance_2d_m, carrier_hz, h_bs_m, h_ut_m, sees)
    clear, blocked = place.shadowing_db
    near = np.full(np.broadcast(d, f, h_bs, h_ut).shape, clear)
    if scenario == "rma":
        near = np.where(d <= rural_breakpoint_m(f, h_bs, h_ut), near, 6.0)
    return np.where(sees, near, blocked)


def street_loss_db(
    scenario: StreetScenario,
    distance_m: ArrayLike,
    carrier_hz: ArrayLike,
    line_of_sight: ArrayLike = True,
) -> Floats:
    """Return the median path loss between two terminals at street level, in dB.

    3GPP TR 37.885 v15.3.0, table 6.2.1-2; without line of sight a building's corner is between
    them. Distance in metres between the antennas, frequency in Hz.
    """
    _known(scenario, get_args(StreetScenario))
    d = _within("distance_m", distance_m, *STREET_M)
    f = _within("carrier_hz", carrier_hz, *STREET_HZ)
    clear = tr37885.urban_db if scenario == "urban" else tr37885.highway_db
    clear_db = clear(d, f)
    blocked_db = np.maximum(clear_db, tr37885.blocked_db(d, f))
    return np.where(np.asarray(line_of_sight, bool), clear_db, blocked_db)


def street_sight_probability(scenario: StreetScenario, distance_m: ArrayLike) -> Floats:
    """Return how likely two terminals at street level see each other.

    3GPP TR 37.885 v15.3.0, table 6.2-1.
    """
    _known(scenario, get_args(StreetScenario))
    d = _within("distance_m", distance_m, 0.0, np.inf, open_low=True)
    return tr37885.urban_sight(d) if scenario == "urban" else tr37885.highway_sight(d)


def _place(scenario: str) -> Place:
    _known(scenario, get_args(CellScenario))
    return PLACES[scenario]


def _known(scenario: str, accepted: tuple[str, ...]) -> None:
    if scenario not in accepted:
        raise ConfigError("scenario", scenario, f"accepted: {', '.join(accepted)}")


def _checked(
    place: Place,
    distance_2d_m: ArrayLike,
    carrier_hz: ArrayLike,
    h_bs_m: ArrayLike,
    h_ut_m: ArrayLike,
    sees: NDArray[np.bool_],
) -> tuple[Floats, Floats, Floats, Floats]:
    low, high = place.distance_m
    d = _within("distance_2d_m", distance_2d_m, low, high, open_low=low == 0)
    if place.blocked_distance_m[1] < high:
        hidden = np.where(sees, low, d)
        _within("distance_2d_m without line of sight", hidden, *place.blocked_distance_m)
    return (
        d,
        _within("carrier_hz", carrier_hz, *place.carrier_hz),
        _within("h_bs_m", h_bs_m, *place.h_bs_m),
        _within("h_ut_m", h_ut_m, *place.h_ut_m),
    )


def _within(
    name: str, given: ArrayLike, low: float, high: float, *, open_low: bool = False
) -> Floats:
    """Return numbers as an array, or refuse the first that lies outside; NaN does."""
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(name, given, "a number or an array of numbers") from None
    inside = (values > low if open_low else values >= low) & (values <= high)
    if not inside.all():
        first = float(values[~inside].flat[0] if values.ndim else values)
        bound = f"above {low:g}" if open_low else f"from {low:g}"
        to = "" if np.isinf(high) else f" to {high:g}"
        raise ConfigError(name, first, f"accepted: {bound}{to}")
    return values
