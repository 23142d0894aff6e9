"""Several models travel in one packet, and each node mixes them by what they are worth to it.

Instead of one model that every node pulls its way, a packet has the last few that were made, as
members (whitepaper, section 2.5: knowledge of unlike nodes is combined where it is needed). A node
weighs them by their loss on its own data, exponentially (Vovk 1990; Freund and Schapire 1997), goes
on from that mix and leaves its model in place of the oldest. Of linear heads the mix of weights is
the mix of logits; of other tunables that began as one model it is a soup (Wortsman et al. 2022,
arXiv 2203.05482).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from mfd_flower.checks import bounded
from mfd_flower.config import RunConfig
from mfd_flower.own_model import OWN, QUERY, show_own
from mfd_flower.packets import Packet, PacketError
from mfd_flower.walk.trait import ONE_MODEL, Fit, Layer, Training, Trait

if TYPE_CHECKING:
    from mfd_flower.walk.relay import Relay
    from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class Ensemble(Trait):
    """Carry several models, and mix them by local loss."""

    layer: ClassVar[Layer] = Layer.RESIZE
    excludes: ClassVar = (*ONE_MODEL, "merge", "resize", "teach", "terms")
    actions: ClassVar = {QUERY: show_own}
    links: ClassVar = {QUERY: "relay"}

    members: int = bounded(3, 2, 16)
    """Models in a packet, which is so many times as large."""
    temperature: float = bounded(0.1, 0.0, 100.0, open_low=True)
    """Nats of loss that make a member count e times less; small, and the best alone counts."""

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Begin with equal members."""
        copies = {
            f"{number}/{name}": tensor
            for number in range(self.members)
            for name, tensor in tensors.items()
        }
        return copies, header

    def model(
        self, run: RunConfig, packet: Packet, tensors: Mapping[str, Tensor], beside: RecordDict
    ) -> Mapping[str, Tensor]:
        """Return the even mix, that of somebody who has no data."""
        return mixed(self._parted(tensors), [1 / self.members] * self.members)

    def arrive(self, visit: Visit) -> None:
        """Weigh the members, and begin from their mix in the place of the oldest."""
        members, here = self._parted(visit.tensors), self._place(visit)
        losses = torch.tensor([visit.node.evaluate(member).loss for member in members])
        weights = torch.softmax(-losses.double() / self.temperature, 0).tolist()
        begun = {f"{here}/{name}": t for name, t in mixed(members, weights).items()}
        visit.tensors = {**visit.tensors, **begun}

    def select(self, visit: Visit) -> None:
        """Leave the other members as they are."""
        here = f"{self._place(visit)}/"
        visit.only = {name for name in visit.only if name.startswith(here)}

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train the mix."""
        here = self._place(visit)
        found = inner(self._parted(tensors)[here], **keywords, node=visit.node)
        visit.keep_for_all(OWN, ArrayRecord(dict(found.tensors)))
        trained = {f"{here}/{name}": tensor for name, tensor in found.tensors.items()}
        return Fit({**tensors, **trained}, found.samples, {})

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Return the nodes' own models; this is measurement, not traffic."""
        asked = dict.fromkeys(relay.addresses, RecordDict())
        answers = relay.requests.ask_all(QUERY, asked)
        return {"own": {name: each.array_records["own"] for name, each in answers.items()}}

    def _place(self, visit: Visit) -> int:
        """Return which member this visit replaces: that of so many hops ago."""
        return (visit.start.hop - 1) % self.members

    def _parted(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return members by themselves; `PacketError` if there is another number of them."""
        found: list[dict[str, Tensor]] = [{} for _ in range(self.members)]
        for name, tensor in tensors.items():
            number, _, inside = name.partition("/")
            if not number.isdecimal() or int(number) >= self.members or str(int(number)) != number:
                raise PacketError(f"shapes.{name[:80]}: begins with no member's number")
            found[int(number)][inside] = tensor
        return found


def mixed(members: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted sum of models that have the same tunables."""
    return {
        name: torch.stack([w * each[name] for w, each in zip(weights, members, strict=True)]).sum(0)
        for name in members[0]
    }
