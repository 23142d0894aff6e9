"""Walks without training: where packets go, when, and for how many bytes, at any size."""

from mfd_flower.routes.learning import PowerLaw
from mfd_flower.routes.only import Route, RoutesOnly, VisitCosts
from mfd_flower.routes.planned import PlannedTour
from mfd_flower.routes.planner import TourPlan, planned_tour

__all__ = [
    "PlannedTour",
    "PowerLaw",
    "Route",
    "RoutesOnly",
    "TourPlan",
    "VisitCosts",
    "planned_tour",
]
