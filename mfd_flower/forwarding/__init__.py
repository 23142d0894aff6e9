"""Store and forward: how AI packets get from node to node, and how none is lost on its way.

`announce` fills the routing tables, `arrival` is what a node checks before it trains, `visit` what
it does to a packet, `holder` what it does with one in custody, `carrier` what happens between
nodes. With a ledger, `notary` verifies and signs versions, `heads` travel with adverts so that a
chain that was cut off is found, and `admission` judges versions.
"""

from mfd_flower.forwarding.announce import announced_counts
from mfd_flower.forwarding.arrival import judge_last
from mfd_flower.forwarding.carrier import FORWARDING_LINKS, Carrier, WalkFailedError
from mfd_flower.forwarding.custody import Custody
from mfd_flower.forwarding.holder import FORWARDING_ACTIONS as HOLDER_ACTIONS
from mfd_flower.forwarding.holder import Route, held_packet, next_hop
from mfd_flower.forwarding.notary import Notary

FORWARDING_ACTIONS = {**HOLDER_ACTIONS, "query.judge": judge_last}

__all__ = [
    "FORWARDING_ACTIONS",
    "FORWARDING_LINKS",
    "Carrier",
    "Custody",
    "Notary",
    "Route",
    "WalkFailedError",
    "announced_counts",
    "held_packet",
    "next_hop",
]
