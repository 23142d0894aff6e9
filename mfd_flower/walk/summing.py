"""What a visit of the exact walk does: sums in the place of a model, addition in that of training.

The packet's payload is the sums over everybody in ``included``, in their own code; in a session it
is a model, and after that what was frozen of it travels beside the sums. See
``docs/exact-walk.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from flwr.app import RecordDict
from torch import Tensor

from mfd_flower.adversary.attackers import claimed
from mfd_flower.checks import bounded
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import Head, HeadKind, solve
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.rounded import Rounding, features_digest, scale_of
from mfd_flower.models.sums import Sums, SumsError
from mfd_flower.node import initial_tunables, with_head
from mfd_flower.packets import Packet, PacketError, pack
from mfd_flower.packets.codecs import BYTES, CodecName
from mfd_flower.packets.digest import version_digest
from mfd_flower.packets.members import bitmap
from mfd_flower.routing import Candidate
from mfd_flower.walk.counted import count, is_counted
from mfd_flower.walk.meeting import gather, leave
from mfd_flower.walk.node_ledger import dropped
from mfd_flower.walk.relay import Relay, WalkFailedError
from mfd_flower.walk.session import Session
from mfd_flower.walk.signed import next_judges
from mfd_flower.walk.tours import Tour
from mfd_flower.walk.trait import Fit, Layer, Training, Trait, UntakenError
from mfd_flower.walk.traits.codec import Codec
from mfd_flower.walk.traits.mask import Mask
from mfd_flower.walk.traits.noise import Noise
from mfd_flower.walk.visit import Visit

SUMS, MASKED = "sums", "masked"
TraitT = TypeVar("TraitT", bound=Trait)


@dataclass(frozen=True)
class Summing(Trait):
    """Add this node's sums to those in the packet, once, and go where that is still to be done."""

    tour: Tour
    features: Rounding = field(default_factory=Rounding)
    head: HeadKind = "ridge"
    session: int = bounded(0, 0)
    codec: CodecName = "fp16"
    noise: Noise | None = None

    layer: ClassVar[Layer] = Layer.CODEC
    excludes: ClassVar = (
        *("codec", "delta", "damping"),
        *("merge", "partial", "gate", "optimizer"),
        *("ensemble", "resize", "teach", "terms"),
    )

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Begin with the sums over nobody, or with a session."""
        name = hashlib.sha256(f"tour of {run.seed}".encode()).hexdigest()[:32]
        told = {**header, "tour": name, "meeting": self.tour.meeting}
        if self.session:
            return tensors, {**told, "codec": self.codec}
        told |= {"codec": BYTES, "features": features_digest(run, tensors, self.features)}
        return {SUMS: as_tensor(Sums.nothing(*self._shape(run)))}, told

    def model(
        self, run: RunConfig, packet: Packet, tensors: Mapping[str, Tensor], beside: RecordDict
    ) -> Mapping[str, Tensor]:
        """Solve for the head, if these are sums."""
        if packet.codec != BYTES:
            return tensors
        if MASKED in tensors or not (sums := self.read(run, tensors)).samples:
            return initial_tunables(run)
        start = self.tuned.tunables(run, beside)
        return with_head(run, start, self.solved(sums, packet.included), self.features)

    def solved(self, sums: Sums, included: str) -> Head:
        """Return the head of sums over the nodes in a bitmap."""
        if self.noise is None:
            return solve(self.head, sums)
        sigma = self.noise.sigma(self.features, len(sums.gram) - 1)
        return solve(self.head, sums, sigma * len(self.tour.members(included)) ** 0.5)

    def read(self, run: RunConfig, tensors: Mapping[str, Tensor]) -> Sums:
        """Return the sums in a packet's payload; `PacketError` if they are not such."""
        if tensors.keys() != {SUMS}:
            raise PacketError(f"payload {min(tensors)}: accepted: {SUMS}")
        return Sums.from_bytes(tensors[SUMS].numpy().tobytes(), *self._shape(run))

    def outdated(self, visit: Visit) -> bool:
        """Tell whether the sums that this node sent on later have all in them that these have.

        When holders die the walk resumes before them, and comes by again when they are back.
        """
        packet, kept = visit.packet, visit.custody.header(visit.packet.walker)
        if kept is None or not packet.tour or kept.tour != packet.tour or kept.hop <= packet.hop:
            return False
        return self.tour.members(packet.included) < self.tour.members(kept.included)

    def arrive(self, visit: Visit) -> None:
        """Check whose sums these are; at the meeting node add up what other walkers brought."""
        packet, node = visit.start, visit.node
        visit.header |= {name: getattr(packet, name) for name in ("included", "passed", "meeting")}
        if packet.codec != BYTES:
            if packet.hop > self.session or packet.features or packet.included:
                raise UntakenError("session", f"hop = {packet.hop}: the session has {self.session}")
            return
        self.check_features(visit)
        if packet.meeting and not self.tour.has(packet.meeting):
            raise UntakenError("meeting", f"meeting = {packet.meeting}: none of the nodes")
        if node.address in self.tour.members(packet.included) and not is_counted(visit):
            raise UntakenError("included", f"included: {node.address} has not added itself")
        mask = _of(Mask, visit)
        if MASKED not in visit.tensors or mask is None:
            self.read(node.run, visit.tensors)
        if self._meets(visit):
            if MASKED in visit.tensors and mask is not None:
                sums = mask.take_off(
                    visit, visit.tensors[MASKED], self._shape(node.run), self._most
                )
                visit.tensors, visit.header["meeting"] = {SUMS: as_tensor(sums)}, ""
            else:
                brought = self.read(node.run, visit.tensors)
                total = gather(visit, self.tour, brought)
                visit.tensors = visit.tensors if total is None else {SUMS: as_tensor(total)}
                if visit.plan.judges:
                    # Without what this node may add, which nobody has judged.
                    leave(visit, brought if total is None else total, packet.version)
        if visit.plan.judges:
            self._pass_over(visit, *dropped(visit.ledger.chains.entries))

    def check_features(self, visit: Visit) -> None:
        """Compare what the sums are of with what this node would add; `UntakenError` if unlike."""
        found = visit.packet.features
        wanted = features_digest(visit.node.run, self.tuned.frozen(visit), self.features)
        if found != wanted:
            said = f"features = {found[:12]}...: sums of others, here {wanted[:12]}..."
            raise UntakenError("features", said)

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Add this node's sums, unless it has done so in this tour; in a session, train."""
        packet, run = visit.start, visit.node.run
        if packet.codec == BYTES:
            if not is_counted(visit):
                return self._added(visit, tensors, self.tuned.frozen(visit))
            self._pass_over(visit, visit.node.address)
            return Fit(dict(tensors), 0, {})
        trained = inner(tensors, **keywords)
        if packet.hop < self.session:
            return trained
        start = self.tuned.freeze(visit, trained.tensors)
        visit.only = {SUMS, MASKED}
        nothing = {SUMS: as_tensor(Sums.nothing(*self._shape(run)))}
        added = self._added(visit, nothing, start)
        return Fit(added.tensors, trained.samples, {})

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Go where nobody was added yet; a session goes where the policy says."""
        in_session = visit.start.hop < self.session if visit.header else not visit.onward.features
        found = candidates if in_session else self.tour.next(visit, candidates)
        return next_judges(visit, found, candidates) if visit.plan.judges else found

    def depart(self, visit: Visit) -> None:
        """Make the next version; the walk of this walker ends where nobody is left to go to."""
        packet = visit.start
        if not visit.fit.samples:
            visit.header["seen"] = packet.seen
        ended = packet.codec == BYTES or packet.hop == self.session
        # To meet here now that others cannot be reached, it comes here once more.
        ended &= visit.header["meeting"] in ("", packet.meeting)
        # And so it does if that became clear where walkers meet.
        here = visit.header["meeting"] == visit.node.address
        ended &= not here or self.tour.walkers == 1 or self._meets(visit)
        if visit.header["destination"] == visit.node.address and ended:
            visit.header["ttl"] = 0
        if visit.changes.keys() - packet.shapes.keys():
            told = {**packet.values(), **visit.header, "codec": BYTES, "parent": packet.version}
            told |= {
                "samples": packet.samples + visit.fit.samples,
                "updated": dict.fromkeys(visit.changes, packet.hop),
            }
            del told["version"], told["shapes"]
            visit.onward, _ = pack(visit.changes, **told)
        elif packet.codec != BYTES:
            Codec(self.codec).depart(visit)
        else:
            visit.pack(None)
        if self.tour.walkers > 1 and not visit.plan.judges and self._meets(visit):
            total = self.read(visit.node.run, {**visit.tensors, **visit.changes})
            leave(visit, total, visit.onward.version)

    def send(self, visit: Visit, content: RecordDict, whole: bool) -> None:
        """Leave out what was frozen where the receiver has it."""
        if self.session and not whole:
            self.tuned.send(visit, self.tour, content)

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Say who is in the sums, and who is not; fails if the mask could not be taken off."""
        most = max(landed, key=lambda packet: len(self.tour.members(packet.included)))
        if MASKED in most.shapes:
            said = "which has the sums' mask, does not answer, and nobody else can take it off"
            raise WalkFailedError(f"mask: {most.meeting}, {said}")
        included = self.tour.members(most.included)
        nodes = [f"n{i}" for i in range(self.tour.nodes)]
        return {
            "included": [name for name in nodes if name in included],
            "missing": [name for name in nodes if name not in included],
            "sums_version": most.version,
        }

    def _added(
        self, visit: Visit, tensors: Mapping[str, Tensor], frozen: Mapping[str, Tensor]
    ) -> Fit:
        """Add this node's samples, and remember it."""
        node, packet, mask = visit.node, visit.start, _of(Mask, visit)
        own, noise = node.sums(frozen, self.features), self.noise
        if noise is not None:
            own = noise.on(visit, own, self.features)
        name = SUMS if mask is None else MASKED
        try:
            if mask is None:
                total = as_tensor(self.read(node.run, tensors) + own)
            elif MASKED in tensors:
                total = mask.plus(tensors[MASKED], own, self._most)
            else:
                total = mask.put_on(visit, own, self._most)
                visit.header["meeting"] = node.address
        except SumsError as error:
            raise UntakenError("overflow", f"sums: {error}") from error
        if visit.plan.judges and visit.ledger.knows(version_digest({name: total})):
            # It adds nothing, or what was refused.
            self._pass_over(visit, node.address)
            return Fit(dict(tensors), 0, {})
        included = self.tour.members(visit.header["included"]) | {node.address}
        claim = claimed(node.run, node.index, included, own.samples)
        visit.header["included"] = bitmap(claim.included)
        if not packet.features:
            visit.header["features"] = features_digest(node.run, frozen, self.features)
        count(visit)
        visit.only = {name}
        # Beside what hides them, the header does not tell how many samples a node has.
        hidden = mask is not None or noise is not None
        return Fit({name: total}, 0 if hidden else claim.samples, {})

    def _meets(self, visit: Visit) -> bool:
        """Tell whether this is where walkers meet, and this one is through.

        This node itself may be left, if another walker has added it, or nobody has to judge first
        what it adds now.
        """
        here, packet = visit.node.address, visit.start
        if here != packet.meeting:
            return False
        told = {name: getattr(packet, name) for name in ("included", "passed", "meeting")}
        left = self.tour.left(told, packet.walker)
        return not left or (left == {here} and (is_counted(visit) or not visit.plan.judges))

    def _pass_over(self, visit: Visit, *addresses: str) -> None:
        """Say that nodes were asked, and add nothing, unless they are in the sums."""
        passed = self.tour.members(visit.header["passed"]) | set(addresses)
        visit.header["passed"] = bitmap(passed - self.tour.members(visit.header["included"]))

    @property
    def tuned(self) -> Session:
        """What stands in front of the sums, and how it comes to a node."""
        return Session(self.session, self.codec)

    @property
    def _most(self) -> int:
        """Largest whole number of a feature."""
        return self.features.largest

    def _shape(self, run: RunConfig) -> tuple[int, int]:
        return scale_of(run, self.features).features, federation_of(run).num_classes


def as_tensor(sums: Sums) -> Tensor:
    """Return sums as a packet's payload has them: their one text, byte for byte."""
    return torch.from_numpy(np.frombuffer(sums.to_bytes(), np.uint8).copy())


def _of(kind: type[TraitT], visit: Visit) -> TraitT | None:
    """Return the trait of a kind, None if the walk has none."""
    return next((trait for trait in visit.plan.traits if isinstance(trait, kind)), None)
