"""Models of other sizes that are the same function: they grow exactly, and come back."""

from mfd_flower.scaling.grow import grow
from mfd_flower.scaling.shrink import shrink
from mfd_flower.scaling.sizes import Size, size_of

__all__ = ["Size", "grow", "shrink", "size_of"]
