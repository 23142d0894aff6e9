"""A session: the first visits of an exact walk tune what stands in front of the sums.

The last of them freezes it, without its head. From there on it travels beside the sums, in a packet
of its own, to each node that lacks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from mfd_flower.config import RunConfig
from mfd_flower.node import initial_tunables
from mfd_flower.packets import PacketError, pack
from mfd_flower.packets.codecs import CodecName
from mfd_flower.records import tensors_of
from mfd_flower.walk.custody import enclosed, packet_in
from mfd_flower.walk.tours import Tour, key
from mfd_flower.walk.trait import UntakenError
from mfd_flower.walk.traits.codec import RESIDUAL
from mfd_flower.walk.visit import Visit

FROZEN = "frozen"


@dataclass(frozen=True)
class Session:
    """How many visits it has, 0 for none, and in which codec tunables travel."""

    visits: int
    codec: CodecName

    def freeze(self, visit: Visit, trained: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Let what was trained travel beside the packet; returns the tunables as others read it."""
        packet = visit.start
        told = {n: getattr(packet, n) for n in ("packet_id", "model_id", "destination", "walker")}
        kept = visit.recall(RESIDUAL)
        residual = tensors_of(kept) if isinstance(kept, ArrayRecord) else {}
        names = [name for name in trained if not name.startswith("head.")]
        frozen, _ = pack(
            {name: trained[name] for name in names},
            residual={name: residual[name] for name in names if name in residual},
            **{**told, "codec": self.codec, "source": visit.node.address, "ttl": 0, "hop": 0},
        )
        visit.beside[FROZEN] = enclosed(frozen)
        visit.keep_for_all(key(FROZEN, visit), visit.beside.config_records[FROZEN])
        return {**initial_tunables(visit.node.run), **frozen.decoded()}

    def frozen(self, visit: Visit) -> Mapping[str, Tensor]:
        """Return what stands in front of the sums: as it came along, or came before."""
        if not self.visits:
            return initial_tunables(visit.node.run)
        name = key(FROZEN, visit)
        if FROZEN in visit.content:
            visit.keep_for_all(name, visit.content.config_records[FROZEN])
        elif name not in visit.context.state:
            raise UntakenError("missing", "frozen: what the sums are of did not come along")
        records = visit.content if FROZEN in visit.content else visit.context.state
        visit.beside[FROZEN] = records.config_records[FROZEN if FROZEN in visit.content else name]
        return self.tunables(visit.node.run, visit.beside)

    def tunables(self, run: RunConfig, beside: RecordDict) -> Mapping[str, Tensor]:
        """Return all tunables, of which those frozen stand beside a packet."""
        start = initial_tunables(run)
        if not self.visits:
            return start
        frozen = packet_in(beside, FROZEN).decoded()
        wanted = {name for name in start if not name.startswith("head.")}
        if frozen.keys() != wanted:
            said = f"of this model are {', '.join(sorted(wanted))[:200]}"
            raise PacketError(f"frozen {min(frozen)}: {said}")
        return {**start, **frozen}

    def send(self, visit: Visit, tour: Tour, content: RecordDict) -> None:
        """Leave out what was frozen where the receiver has it."""
        onward = visit.onward
        has_it = tour.members(onward.included) | tour.members(onward.passed)
        if onward.destination in has_it and onward.destination != visit.node.address:
            content.pop(FROZEN, None)
