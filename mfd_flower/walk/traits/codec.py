"""How tunables travel: as they are, or in fewer bits with what was lost sent later.

Error feedback after Seide et al. 2014, *1-Bit Stochastic Gradient Descent*, section 2, kept apart
for each walker: what one walker's packet lost must not go into another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.app import ArrayRecord
from torch import Tensor

from mfd_flower.packets.codecs import CodecName
from mfd_flower.records import tensors_of
from mfd_flower.walk.trait import Layer, Trait

if TYPE_CHECKING:
    from mfd_flower.config import RunConfig
    from mfd_flower.walk.visit import Visit

RESIDUAL = "codec"


@dataclass(frozen=True)
class Codec(Trait):
    """Encode what a visit changed."""

    name: CodecName = "fp32"
    """A key of `mfd_flower.packets.CODECS`."""

    layer: ClassVar[Layer] = Layer.CODEC

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Encode from the first packet on."""
        return tensors, {**header, "codec": self.name}

    def depart(self, visit: Visit) -> None:
        """Make the next version, and keep what encoding dropped for the walker's next visit."""
        kept = visit.recall(RESIDUAL)
        if left := visit.pack(tensors_of(kept) if isinstance(kept, ArrayRecord) else None):
            visit.keep(RESIDUAL, ArrayRecord(left))
