"""The walk of an AI packet: the hop, its traits, and the network that carries it between nodes."""

from mfd_flower.walk.announce import announce, hear
from mfd_flower.walk.hop import hop
from mfd_flower.walk.plan import MOVED, Plan, plan_of
from mfd_flower.walk.relay import Relay, WalkFailedError
from mfd_flower.walk.resend import acknowledge, send_again

WALK_ACTIONS = {
    "query.advert": announce,
    "query.table": hear,
    "train.hop": hop,
    "query.ack": acknowledge,
    "query.again": send_again,
    "query.busy": send_again,
}
WALK_LINKS = {
    "query.advert": "relay",
    "query.table": "d2d",
    "train.hop": "d2d",
    "query.ack": "d2d",
    "query.again": "relay",
    "query.busy": "d2d",
}

__all__ = [
    "MOVED",
    "WALK_ACTIONS",
    "WALK_LINKS",
    "Plan",
    "Relay",
    "WalkFailedError",
    "plan_of",
]
