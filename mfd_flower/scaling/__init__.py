"""Models of other sizes: they grow exactly and come back, or are cut and put back."""

from mfd_flower.scaling.cut import Cut, cut
from mfd_flower.scaling.grow import grow
from mfd_flower.scaling.shrink import shrink
from mfd_flower.scaling.sizes import Size, size_of

__all__ = ["Cut", "Size", "cut", "grow", "shrink", "size_of"]
