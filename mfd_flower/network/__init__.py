"""The world that nodes live in: who can reach whom."""

from mfd_flower.network.topology import neighbours_of

__all__ = ["neighbours_of"]
