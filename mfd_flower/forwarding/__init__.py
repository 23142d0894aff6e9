"""Store and forward: how AI packets get from node to node, and how none is lost on its way.

`announce` fills the routing tables, `holder` is what a node does with a packet in custody,
`carrier` what happens between nodes.
"""

from mfd_flower.forwarding.announce import announced_counts
from mfd_flower.forwarding.carrier import FORWARDING_LINKS, Carrier, WalkFailedError
from mfd_flower.forwarding.custody import Custody
from mfd_flower.forwarding.holder import FORWARDING_ACTIONS, Route, held_packet, next_hop

__all__ = [
    "FORWARDING_ACTIONS",
    "FORWARDING_LINKS",
    "Carrier",
    "Custody",
    "Route",
    "WalkFailedError",
    "announced_counts",
    "held_packet",
    "next_hop",
]
