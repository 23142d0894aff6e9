"""The walk of an AI packet: the hop, its traits, and the network that carries it between nodes."""

from mfd_flower.strategy import Handler
from mfd_flower.walk.announce import announce, hear
from mfd_flower.walk.forwarding import forward
from mfd_flower.walk.hop import hop
from mfd_flower.walk.members import INVITE, invite
from mfd_flower.walk.next_hop import acknowledge, send_again
from mfd_flower.walk.plan import MOVED, Plan, plan_of
from mfd_flower.walk.relay import Relay, WalkFailedError

_MESSAGES = {
    "query.advert": (announce, "relay"),
    "query.probe": (announce, "d2d"),
    INVITE: (invite, "star"),
    "query.table": (hear, "d2d"),
    "train.hop": (hop, "d2d"),
    "query.forward": (forward, "d2d"),
    "query.ack": (acknowledge, "d2d"),
    "query.again": (send_again, "relay"),
    "query.busy": (send_again, "d2d"),
    "query.choose": (send_again, "relay"),
}
WALK_ACTIONS: dict[str, Handler] = {kind: handler for kind, (handler, _) in _MESSAGES.items()}
WALK_LINKS = {kind: link for kind, (_, link) in _MESSAGES.items()}

__all__ = ["MOVED", "WALK_ACTIONS", "WALK_LINKS", "Plan", "Relay", "WalkFailedError", "plan_of"]
