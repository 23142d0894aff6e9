"""The world that nodes live in, its virtual time, and what goes wrong in it."""

from mfd_flower.network.base_stations import BaseStations, Soundings, sounded
from mfd_flower.network.channel import (
    DOWNLINK,
    UPLINK,
    Throughput,
    noise_dbm,
    rate_bps,
    sinr_db,
)
from mfd_flower.network.devices import PROFILES, Profile
from mfd_flower.network.fading import Fading
from mfd_flower.network.fields import Field
from mfd_flower.network.mobility import GaussMarkov, Speeds, Waypoint
from mfd_flower.network.path_loss import (
    path_loss_db,
    shadowing_db,
    sight_probability,
    street_loss_db,
    street_sight_probability,
)
from mfd_flower.network.streets import Manhattan
from mfd_flower.network.traces import Trace
from mfd_flower.network.tracks import Mobility, Static
from mfd_flower.network.wireless import WirelessWorld
from mfd_flower.network.wireless_options import WirelessOptions

__all__ = [
    "DOWNLINK",
    "PROFILES",
    "UPLINK",
    "BaseStations",
    "Fading",
    "Field",
    "GaussMarkov",
    "Manhattan",
    "Mobility",
    "Profile",
    "Soundings",
    "Speeds",
    "Static",
    "Throughput",
    "Trace",
    "Waypoint",
    "WirelessOptions",
    "WirelessWorld",
    "noise_dbm",
    "path_loss_db",
    "rate_bps",
    "shadowing_db",
    "sight_probability",
    "sinr_db",
    "sounded",
    "street_loss_db",
    "street_sight_probability",
]
