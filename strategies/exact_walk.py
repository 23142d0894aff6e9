"""Exact walk: a packet of sums goes from node to node, and the same head comes of every route.

Beyond the whitepaper, whose packets carry models, ``W0 + A1 B1 + A2 B2 ...``: here they carry what
a closed form needs, ``G0 + G1 + G2 ...`` (the sums of Fed3R, arXiv 2406.01116, and AFL, arXiv
2405.16240, where a server collects them). Each node adds its samples once and only forwards after
that; who was added stands in the packet. So the head is that of all included data in one place, at
any skew, in any order, with any number of walkers.

A holder does with sums what it does with a model, `mfd_flower.walk.hop`; `Summing` stands in the
place of training and codec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor

from mfd_flower.checks import ConfigError, build
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import solve
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.rounded import Rounding, features_digest, scale_of
from mfd_flower.models.sums import Sums, SumsError
from mfd_flower.node import initial_tunables, with_head
from mfd_flower.packets import Packet, PacketError
from mfd_flower.packets.codecs import BYTES
from mfd_flower.packets.members import bitmap, members_in
from mfd_flower.records import integer, text, texts
from mfd_flower.routing import Candidate
from mfd_flower.walk.course import Course
from mfd_flower.walk.plan import Plan
from mfd_flower.walk.relay import Relay
from mfd_flower.walk.trait import Fit, Layer, Training, Trait, UntakenError
from mfd_flower.walk.visit import Visit
from strategies.mfd_walk import MFDWalk

SUMS = "sums"
POLICY = {"name": "round-robin", "advert_hops": 0}
LAST_TRIES = 3
"""How often a holder tries a node again that did not answer, when no other is left."""


@dataclass(frozen=True)
class Summing(Trait):
    """Add this node's sums to those in the packet, once, and go where that is still to be done."""

    features: Rounding = field(default_factory=Rounding)
    head: Literal["ridge", "discriminant"] = "ridge"
    nodes: int = 1
    walkers: int = 1
    start_node: int = 0
    """Where the first walker begins, and where all meet."""

    layer: ClassVar[Layer] = Layer.CODEC
    excludes: ClassVar = ("codec", "delta", "damping", "merge", "partial", "gate", "optimizer")

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Begin with the sums over nobody."""
        told = {
            "codec": BYTES,
            "tour": hashlib.sha256(f"tour of {run.seed}".encode()).hexdigest()[:32],
            "features": features_digest(run, tensors, self.features),
            "meeting": f"n{self.start_node}" if self.walkers > 1 else "",
        }
        return {SUMS: _as_tensor(Sums.nothing(*self._shape(run)))}, {**header, **told}

    def model(
        self, run: RunConfig, packet: Packet, tensors: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Solve for the head."""
        start, sums = initial_tunables(run), self.read(run, tensors)
        if not sums.samples:
            return start
        return with_head(run, start, solve(self.head, sums), self.features)

    def read(self, run: RunConfig, tensors: Mapping[str, Tensor]) -> Sums:
        """Return the sums in a packet's payload; `PacketError` if they are not such."""
        if tensors.keys() != {SUMS}:
            raise PacketError(f"payload {min(tensors)}: accepted: {SUMS}")
        return Sums.from_bytes(tensors[SUMS].numpy().tobytes(), *self._shape(run))

    def arrive(self, visit: Visit) -> None:
        """Check whose sums these are; at the meeting node add up what other walkers brought."""
        packet, node, run = visit.start, visit.node, visit.node.run
        wanted = features_digest(run, initial_tunables(run), self.features)
        if packet.features != wanted:
            said = f"features = {packet.features[:12]}...: sums of others, here {wanted[:12]}..."
            raise UntakenError("features", said)
        if node.address in members_in(packet.included, self.nodes) and not _is_counted(visit):
            raise UntakenError("included", f"included: {node.address} has not added itself")
        visit.header |= {name: getattr(packet, name) for name in ("included", "passed", "meeting")}
        self.read(run, visit.tensors)
        if node.address == packet.meeting and not self._left(visit.header, packet.walker):
            self._gather(visit)

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Add this node's sums, unless it has done so in this tour."""
        node, packet = visit.node, visit.start
        included = members_in(visit.header["included"], self.nodes)
        if _is_counted(visit):
            if node.address not in included:
                passed = members_in(visit.header["passed"], self.nodes)
                visit.header["passed"] = bitmap({*passed, node.address})
            return Fit(dict(tensors), 0, {})
        own = node.sums(initial_tunables(node.run), self.features)
        try:
            total = self.read(node.run, tensors) + own
        except SumsError as error:
            raise UntakenError("overflow", f"sums: {error}") from error
        visit.header["included"] = bitmap({*included, node.address})
        told = ConfigRecord({"walker": packet.walker, "hop": packet.hop, "parent": packet.version})
        visit.keep_for_all(_key("counted", visit), told)
        return Fit({SUMS: _as_tensor(total)}, own.samples, {})

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Go where nobody was added yet; then to the meeting node, or nowhere."""
        told, packet = visit.header or vars(visit.onward), _packet(visit)
        here, near = visit.node.address, set(visit.node.world_view().neighbours)
        left = self._left(told, packet.walker)
        if not left and told["meeting"]:
            left = {told["meeting"]} - {here}
        if not left:
            return []
        open_links = candidates or [Candidate(a) for a in sorted(near - visit.table.gone)]
        if wanted := [c for c in open_links if c.address in left]:
            return wanted
        if left - near and open_links:
            # Somewhere behind the neighbours: through the one that the packet left longest ago.
            oldest = min(c.last_visit for c in open_links)
            return [c for c in open_links if c.last_visit == oldest]
        if again := self._last_tries(visit, sorted(left & near)):
            return again
        if not visit.header or left == {told["meeting"]}:
            # Sent again, a packet comes to its holder once more, which then writes down whom.
            return []
        passed = members_in(told["passed"], self.nodes)
        visit.header["passed"] = bitmap(passed | left)
        return self.route(visit, candidates)

    def depart(self, visit: Visit) -> None:
        """Make the next version; the walk of this walker ends where nobody is left to go to."""
        packet, node = visit.start, visit.node
        if not visit.fit.samples:
            visit.header["seen"] = packet.seen
        if visit.header["destination"] == node.address:
            visit.header["ttl"] = 0
        visit.pack(None)

    def _gather(self, visit: Visit) -> None:
        """Add the sums that other walkers left here; the last to come goes on with them all."""
        packet, shape = visit.start, self._shape(visit.node.run)
        key, included = _key("gathered", visit), members_in(packet.included, self.nodes)
        total, walkers = self.read(visit.node.run, visit.tensors), [packet.walker]
        if (record := visit.context.state.config_records.get(key)) is not None:
            others = members_in(text(record, "included"), self.nodes)
            if both := included & others:
                said = f"included: {', '.join(sorted(both))} in both sums, which are not added up"
                visit.answers["apart"] = ConfigRecord({"text": said})
                return
            total = total + Sums.from_bytes(record["data"], *shape)  # type: ignore[arg-type]
            included, walkers = included | others, [*texts(record, "walkers"), packet.walker]
            visit.tensors = {SUMS: _as_tensor(total)}
            visit.merged.append(text(record, "version"))
        visit.header["included"] = bitmap(included)
        if len(walkers) == self.walkers:
            visit.header |= {"meeting": "", "passed": ""}
            return
        visit.keep_for_all(
            key,
            ConfigRecord(
                {
                    "data": total.to_bytes(),
                    "included": bitmap(included),
                    "version": packet.version,
                    "walkers": walkers,
                }
            ),
        )

    def _last_tries(self, visit: Visit, lost: Sequence[str]) -> list[Candidate]:
        """Return a neighbour that did not answer, as long as none was tried too often."""
        key = _key("tries", visit)
        record = visit.context.state.config_records.get(key, ConfigRecord())
        tries = {address: integer(record, address) for address in record}
        again = [address for address in lost if tries.get(address, 0) < LAST_TRIES]
        if not again:
            return []
        tries[again[0]] = tries.get(again[0], 0) + 1
        visit.keep_for_all(key, ConfigRecord({**tries}))
        return [Candidate(again[0])]

    def _left(self, told: Mapping[str, Any], walker: str) -> set[str]:
        """Return whom a walker has to see to yet: of its share, or after a meeting of all."""
        number = int(walker.removeprefix("w"))
        first, last = (n * self.nodes // self.walkers for n in (number, number + 1))
        share = range(first, last) if told["meeting"] else range(self.nodes)
        done = (members_in(told[name], self.nodes) for name in ("included", "passed"))
        return {f"n{(self.start_node + i) % self.nodes}" for i in share}.difference(*done)

    def _shape(self, run: RunConfig) -> tuple[int, int]:
        return scale_of(run, self.features).features, federation_of(run).num_classes


class ExactWalk(MFDWalk):
    """Walkers that add up sums.

    Parameters
    ----------
    run : RunConfig
        Settings of the run.
    policy : str or table (default: round-robin over a holder's own links)
        As of `mfd-walk`. No choice changes the result, and without adverts none needs a byte.
    walkers : int (default: 1)
        Packets under way at once, each with its share of the nodes. They meet where the first one
        begins, and are added up there.
    traits : table (default: none)
        Of those of `mfd-walk`, `ledger`.
    features : table (default: 4 bits, cut off at 3 standard deviations)
        How features become whole numbers: ``bits``, ``clip``, ``projection``.
    head : str (default: "ridge")
        A regression on the labels, or the "discriminant" of a Gaussian a class with one
        covariance, where all classes are as frequent.
    """

    def __init__(
        self,
        run: RunConfig,
        policy: str | Mapping[str, Any] = POLICY,
        walkers: int = 1,
        traits: Mapping[str, Any] = {},
        features: Mapping[str, Any] = {},
        head: str = "ridge",
    ) -> None:
        self.options = {"features": features, "head": head}
        super().__init__(run, policy, walkers, traits)

    @staticmethod
    def plan_for(
        run: RunConfig,
        policy: object = POLICY,
        walkers: object = 1,
        traits: object = {},
        features: object = {},
        head: object = "ridge",
    ) -> Plan:
        """Return the plan of these options."""
        if run.model.tune != "head":
            raise ConfigError("model.tune", run.model.tune, "accepted by exact-walk: head")
        first = Plan.read(run, policy, walkers, {})
        told = {"nodes": first.nodes, "walkers": walkers, "start_node": first.policy.start_node}
        summing = build(Summing, {"features": features, "head": head, **told}, "options.")
        return Plan.read(run, policy, walkers, traits, {"summing": summing})

    def _launch_first(self, relay: Relay, course: Course, arrays: ArrayRecord, hops: int) -> None:
        """Give each walker hops enough to see to all nodes; it ends when its share is done."""
        super()._launch_first(relay, course, arrays, hops * self.plan.walkers)

    def _land(self, relay: Relay, course: Course) -> None:
        """Let a walker whose sums are in another one's go."""
        super()._land(relay, course)
        sums = {w: members_in(p.included, self.plan.nodes) for w, p in course.landed.items()}
        for walker, included in sums.items():
            larger = [other for other, theirs in sums.items() if included < theirs]
            if included and larger and walker in course.models:
                del course.models[walker]
                course.moved = larger[0] if course.moved == walker else course.moved


def _as_tensor(sums: Sums) -> Tensor:
    return torch.from_numpy(np.frombuffer(sums.to_bytes(), np.uint8).copy())


def _packet(visit: Visit) -> Packet:
    """Return the newest packet of a visit."""
    return visit.onward if "onward" in vars(visit) else visit.start


def _is_counted(visit: Visit) -> bool:
    """Tell whether this node has added itself in this tour."""
    return _key("counted", visit) in visit.context.state


def _key(name: str, visit: Visit) -> str:
    return f"{name}/{_packet(visit).tour}"
