"""Image sets that need no download, their partitions over nodes, and who holds which labels."""

from mfd_flower.data.federation import Federation, load_federation
from mfd_flower.data.image_set import ImageSet
from mfd_flower.data.samples import Samples
from mfd_flower.data.sets import load_set

__all__ = ["Federation", "ImageSet", "Samples", "load_federation", "load_set"]
