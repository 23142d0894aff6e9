"""The optimiser's state travels with the model, which AdamW's triples the bytes.

With it a walk is one run of the optimiser over all data, in the order of the visits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mfd_flower.packets import PacketError, pack
from mfd_flower.walk.custody import enclosed, packet_in
from mfd_flower.walk.trait import Fit, Training, Trait
from mfd_flower.walk.visit import Visit

OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Optimizer(Trait):
    """Send what the optimiser keeps along, as a packet of its own."""

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Go on from the state that came; it belongs to the version that arrived alone."""
        if not keywords.get("optimizer_state") and visit.start is visit.packet:
            keywords["optimizer_state"] = _state_in(visit)
        return inner(tensors, **keywords)

    def depart(self, visit: Visit) -> None:
        """Enclose the state."""
        state = {key.replace(":", "/"): value for key, value in visit.fit.optimizer_state.items()}
        if not state:
            return
        packet = visit.start
        enclosure, _ = pack(
            state,
            packet_id=packet.packet_id,
            model_id=packet.model_id,
            source=visit.node.address,
            destination=visit.header["destination"],
            ttl=0,
            hop=packet.hop,
            walker=packet.walker,
        )
        visit.beside[OPTIMIZER] = enclosed(enclosure)


def _state_in(visit: Visit) -> dict[str, Tensor] | None:
    """Read the state that came along: of these tunables, each slot of its shape or one number."""
    if OPTIMIZER not in visit.content.config_records:
        return None
    found = packet_in(visit.content, OPTIMIZER)
    state = {}
    for key, value in found.decoded().items():
        name, _, slot = key.rpartition("/")
        shape = visit.packet.shapes.get(name)
        if shape is None or value.shape not in (shape, ()):
            raise PacketError(f"optimizer {key}: of shape {tuple(value.shape)}, not a tunable's")
        state[f"{name}:{slot}"] = value.clone()
    return state
