"""Which service an edge server does in each round, and who is paid what for its part in it.

GaisNet (arXiv 2401.02668), sections V and VI-C.
"""

from mfd_flower.services.incentives import (
    MOST_EXACT,
    ShapleyEstimate,
    leave_one_out,
    payments,
    shapley,
    shapley_estimate,
)
from mfd_flower.services.instance import Action, ServiceInstance, profit
from mfd_flower.services.learning import learned
from mfd_flower.services.planning import POLICIES, Plan, plan, planned

__all__ = [
    "MOST_EXACT",
    "POLICIES",
    "Action",
    "Plan",
    "ServiceInstance",
    "ShapleyEstimate",
    "learned",
    "leave_one_out",
    "payments",
    "plan",
    "planned",
    "profit",
    "shapley",
    "shapley_estimate",
]
