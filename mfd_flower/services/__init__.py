"""Fine-tune or infer: which service an edge server does in each round (GaisNet, section V)."""

from mfd_flower.services.instance import Action, ServiceInstance, profit
from mfd_flower.services.learning import learned
from mfd_flower.services.planning import POLICIES, Plan, plan, planned

__all__ = ["POLICIES", "Action", "Plan", "ServiceInstance", "learned", "plan", "planned", "profit"]
