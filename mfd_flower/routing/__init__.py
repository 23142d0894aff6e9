"""How a packet finds its next node: what neighbours announce, and policies that choose."""

from mfd_flower.routing.policies import POLICIES, Candidate, choose, kl_divergence

__all__ = ["POLICIES", "Candidate", "choose", "kl_divergence"]
