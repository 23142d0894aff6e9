"""Walks without training: where packets go, when, and for how many bytes, at any size."""

from mfd_flower.routes.learning import PowerLaw
from mfd_flower.routes.only import Route, RoutesOnly, VisitCosts

__all__ = ["PowerLaw", "Route", "RoutesOnly", "VisitCosts"]
