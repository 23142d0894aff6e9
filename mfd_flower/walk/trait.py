"""What a walk may have beside the plain hop: a trait says what it does at the moments of a visit.

A trait is a frozen dataclass of its options in a file of its own, found by the file's name: in
``./traits`` where the command runs, in packages installed with the entry point group
``mfd_flower.traits``, or here. It overrides the moments that it needs; all others do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from mfd_flower.routing import Candidate
from mfd_flower.strategy import Handler

if TYPE_CHECKING:
    from mfd_flower.config import RunConfig
    from mfd_flower.packets import Packet
    from mfd_flower.walk.plan import Plan
    from mfd_flower.walk.relay import Relay
    from mfd_flower.walk.visit import Visit


class Layer(IntEnum):
    """Where a trait stands around the model: arriving, from the first to the last, and back.

    A delta and a signature are about the packet as it travels, hence outside the codec; admission
    judges what a receiver decodes; what is inside the codec works on plain tensors.
    """

    SIGNATURE = 1
    DELTA = 2
    ADMISSION = 3
    CODEC = 4
    RESIZE = 5
    MERGE = 6
    NONE = 7


ONE_MODEL = ("admission", "gate", "optimizer", "partial")
"""Traits that take what travels for the tunables of the run's model: none for those that do not let
it be."""


class Fit(NamedTuple):
    """What training made of the tunables."""

    tensors: dict[str, Tensor]
    samples: int
    """Processed, epochs counted."""
    optimizer_state: dict[str, Tensor]
    """``<tunable>:<slot>``."""


Training = Callable[..., Fit]
"""Trains tunables, ``(tensors, *, epoch=None, most_epochs=0, optimizer_state=None, node=None,
teacher=None)``, on a node's data: all local epochs, or number `epoch` of at most `most_epochs` in
this visit; as the model of `node`, which is the visit's unless it has one of its own, and learning
from a `teacher` too."""


class UntakenError(Exception):
    """A packet that came whole cannot be taken as it is: its sender may mend that.

    `reason` is a short code, and `told` are addresses that the sender is to ask.
    """

    def __init__(self, reason: str, text: str, told: Sequence[str] = ()) -> None:
        super().__init__(text)
        asked = {"told": list(told)} if told else {}
        self.record = ConfigRecord({"reason": reason, "text": text, **asked})


class Trait:
    """A part of a walk that can be left out."""

    layer: ClassVar[Layer] = Layer.NONE
    """Its place; the order of a configuration means nothing."""
    needs: ClassVar[tuple[str, ...]] = ()
    excludes: ClassVar[tuple[str, ...]] = ()
    """Traits that must, or must not, be there too."""
    actions: ClassVar[Mapping[str, Handler]] = {}
    links: ClassVar[Mapping[str, str]] = {}
    """Messages of its own, as a strategy's ``client_actions`` and ``links``."""
    judges: ClassVar[bool] = False
    """Receivers may refuse a version. Then a hop may be used up without a new one, and the last
    version is shown to one more receiver, by ``query.judge``."""

    own_models: ClassVar[str] = ""
    """Which models of their own nodes may have: ``sized``, the one that travels at other sizes, or
    ``any``."""

    def check(self, run: RunConfig, plan: Plan) -> None:
        """Raise `ConfigError` for settings of the run that this trait cannot do with."""

    # What travels, known to every node from the settings.

    def begin(
        self, run: RunConfig, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return what a walker's first packet has in place of the initial tunables, and header."""
        return tensors, header

    def model(
        self, run: RunConfig, packet: Packet, tensors: Mapping[str, Tensor], beside: RecordDict
    ) -> Mapping[str, Tensor]:
        """Return the tunables that a packet stands for, whose payload decodes to `tensors`.

        `beside` has what came, or is sent, with it.
        """
        return tensors

    # On a node, in the order of a visit.

    def advertise(self, visit: Visit) -> Mapping[str, Any]:
        """Return fields of `routing.Advert` that this node's announcement is to carry."""
        return {}

    def outdated(self, visit: Visit) -> bool:
        """Tell whether this node has sent on more than the packet has; it does so once more."""
        return False

    def arrive(self, visit: Visit) -> None:
        """Verify, restore, judge, resize or merge what arrived; inwards through the layers."""

    def select(self, visit: Visit) -> None:
        """Narrow ``visit.only``, the names of the tunables that are trained."""

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train by calling `inner` with these arguments or others, once or more often."""
        return inner(tensors, **keywords)

    def after(self, visit: Visit) -> None:
        """Change ``visit.changes``, what the update makes of the tunables."""

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return the candidates for the next hop that may be chosen."""
        return candidates

    def depart(self, visit: Visit) -> None:
        """Resize, encode, add records or sign; outwards through the layers."""

    def send(self, visit: Visit, content: RecordDict, whole: bool) -> None:
        """Adapt a message to its receiver, ``visit.onward.destination``; nothing is kept.

        Called anew whenever a packet is sent again; `whole` if the receiver could not take less.
        """

    def settled(self, visit: Visit, walker: str, receipt: ConfigRecord) -> None:
        """Take the receipt of a receiver that has the packet."""

    def undelivered(self, visit: Visit, receiver: str) -> None:
        """Take note that a receiver of ``visit.onward`` did not answer: it is sent elsewhere."""

    # Of the walk as a whole, the same on every node and in the network.

    def share(self, hop: int, plan: Plan) -> float:
        """Return the share of its update that a node was to pass on at a walker's hop, from 1."""
        return 1.0

    # In the network between nodes, which decides nothing.

    def carry(self, relay: Relay, packet: Packet, content: RecordDict) -> RecordDict:
        """Return the message in which a packet goes to its receiver for the first time."""
        return content

    def doubted(self, relay: Relay, packet: Packet, told: ConfigRecord) -> RecordDict | None:
        """Return a message to try once more with after an `UntakenError`, None if there is none."""
        return None

    def proven(self, before: Packet | None, landed: Packet, content: RecordDict) -> Packet | None:
        """Return the version that a landing shows to count, None if it shows none.

        `landed` is what a receiver hands on in `content`; `before` the walker's landing before.
        """
        return landed

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Return what the experimenter keeps, by attribute of the strategy; `landed` came last."""
        return {}
