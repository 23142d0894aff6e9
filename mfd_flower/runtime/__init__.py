"""Engines, billing and the runner that turns settings into runs."""

from mfd_flower.runtime.local_grid import LocalGrid
from mfd_flower.runtime.metered_grid import MeteredGrid

__all__ = ["LocalGrid", "MeteredGrid"]
