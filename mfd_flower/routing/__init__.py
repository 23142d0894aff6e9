"""How a packet finds its next node: what neighbours announce, and policies that choose."""

from mfd_flower.routing.adverts import Advert, AdvertError, with_laplace_noise
from mfd_flower.routing.candidate import Candidate, kl_divergence
from mfd_flower.routing.interest import interest
from mfd_flower.routing.policies import POLICIES, check_options, choose, policy_options
from mfd_flower.routing.policy import Policy
from mfd_flower.routing.table import RoutingTable
from mfd_flower.routing.trail import Trail

__all__ = [
    "POLICIES",
    "Advert",
    "AdvertError",
    "Candidate",
    "Policy",
    "RoutingTable",
    "Trail",
    "check_options",
    "choose",
    "interest",
    "kl_divergence",
    "policy_options",
    "with_laplace_noise",
]
