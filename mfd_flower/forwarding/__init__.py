"""Store and forward: how AI packets get from node to node, and how none is lost on its way.

`holder` is what a node does with a packet in custody, `carrier` what happens between nodes.
"""

from mfd_flower.forwarding.carrier import FORWARDING_LINKS, Carrier, WalkFailedError
from mfd_flower.forwarding.custody import Custody
from mfd_flower.forwarding.holder import FORWARDING_ACTIONS, Route, next_hop

__all__ = [
    "FORWARDING_ACTIONS",
    "FORWARDING_LINKS",
    "Carrier",
    "Custody",
    "Route",
    "WalkFailedError",
    "next_hop",
]
