"""Admission: a receiver judges the arriving version before it trains on it, or goes on without it.

The update is measured against its parent on the receiver's own samples (`ledger.audit`). The parent
is the version that the author had: its tensors travel beside the packet unless the receiver holds
them. What is refused stays out of custody, its digest and the reason stand in the ledger, and the
receiver goes on from the parent: nobody has to be asked, and the hop that was lost counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.forwarding.announce import routing_table
from mfd_flower.forwarding.heads import CutOffError
from mfd_flower.forwarding.notary import Notary, arrived_chain
from mfd_flower.ledger import Entry, LedgerError
from mfd_flower.ledger.history import AuditError, History, Update
from mfd_flower.ledger.poisoning import Admission, Evidence, Measured, comparable, judge
from mfd_flower.node import Node
from mfd_flower.packets import Packet, PacketError, delta, restored
from mfd_flower.packets.record import write_record

PARENT, HISTORY = "parent", "history"
VERDICT, UNTAKEN = "verdict", "not-taken"
"""Records of a receiver that trained nothing: it only judged, or could not take the packet."""
NOT_TAKEN = (AuditError, LedgerError, PacketError)
"""What is wrong beside a packet that came whole: its sender may mend it."""


@dataclass(frozen=True, eq=False)
class Admitted:
    """What a node trains on.

    Attributes
    ----------
    packet : Packet
        The version that arrived, or its parent if that was refused.
    tensors : dict of str to Tensor
        Its tunables.
    history : History
        Accepted updates up to it.
    accuracy : float, optional
        On the node's own samples, if it was measured.
    """

    packet: Packet
    tensors: dict[str, Tensor]
    history: History
    accuracy: float | None = None


def admit(
    node: Node,
    context: Context,
    notary: Notary,
    arrived: Packet,
    tensors: dict[str, Tensor],
    content: RecordDict,
    held: Iterable[Packet],
    share: float,
) -> Admitted:
    """Judge an arriving version; a refusal is written into the replica.

    Parameters
    ----------
    node, context : Node and Context
        The receiver.
    notary : Notary
        Has taken what came beside the packet.
    arrived : Packet
        Full.
    tensors : dict of str to Tensor
        Its tunables, decoded.
    content : RecordDict
        The message it came in.
    held : iterable of Packet
        Versions that this node has, among them perhaps the parent.
    share : float
        Share of its update that the author was to pass on.

    Raises
    ------
    AuditError
        If the history is malformed.
    LedgerError, PacketError
        If the parent is not there, or not the version that the ledger names.
    """
    record = content.config_records.get(HISTORY)
    history = History.from_fields(record) if record is not None else History()
    found = Measured(*node.sample_losses(tensors))
    made = notary.maker(arrived.version, arrived_chain(arrived))
    if made.author == node.address or not notary.is_unconfirmed(arrived):
        return Admitted(arrived, tensors, history, accuracy(found))
    parent = parent_of(arrived, made, content, held)
    before = parent.decoded()
    known = Measured(*node.sample_losses(before))
    counts = advertised_counts(node, context, made.author)
    fair = np.ones(len(found.losses), bool)
    if counts is not None:
        fair = comparable(node.samples.labels.numpy(), np.rint(counts).astype(np.int64))
    update = Update.between(before, tensors, share)
    evidence = Evidence(_at(found, fair), _at(known, fair), update=update)
    verdict = judge(evidence, history, Admission())
    if verdict.accepted:
        return Admitted(arrived, tensors, history.after(update), accuracy(found))
    said = f"{verdict.reason}: {verdict.measured:.3g}, bound {verdict.limit:.3g}"
    notary.refuse(arrived, said)
    maker = notary.maker(parent.version, arrived_chain(arrived))
    return Admitted(rolled_back(arrived, parent, maker, counts), before, history, accuracy(known))


def not_taken(error: Exception) -> RecordDict:
    """Return a receiver's word that it could not take a packet, and why."""
    reason = getattr(error, "reason", type(error).__name__)
    told: dict[str, str | list[str]] = {"reason": str(reason), "text": str(error)}
    if isinstance(error, CutOffError):
        told["announcers"] = list(error.announcers)
    return RecordDict({UNTAKEN: ConfigRecord({**told})})


def accepted(before: Packet | None, landed: Packet, content: RecordDict) -> Packet | None:
    """Return the version that a landing shows to be admitted, None if one was refused.

    A receiver accepts what it makes its own version from; the last one it only judges.

    Parameters
    ----------
    before : Packet or None
        The walker's landing before, None at its first.
    landed : Packet
        What its receiver hands on.
    content : RecordDict
        The message it is in.
    """
    if VERDICT in content:
        return landed if content.config_records[VERDICT]["accepted"] else None
    return before if before is not None and landed.parent == before.version else None


def travelling(arrived: Packet, onward: Packet, changed: Iterable[str]) -> ArrayRecord:
    """Return the parent of a version as it travels beside it: only what is another in it."""
    cut = delta(arrived, onward.version, set(changed))
    return cut.to_record().array_records["arrays"]


def parent_of(arrived: Packet, made: Entry, content: RecordDict, held: Iterable[Packet]) -> Packet:
    """Return the version that the author of an arriving one began from, full.

    Raises
    ------
    LedgerError
        ``missing``, if neither the message nor this node has it.
    PacketError
        If what came is not that version.
    """
    version = made.parents[0]
    for known in held:
        if known.version == version:
            return known
    record = content.array_records.get(PARENT)
    if record is None:
        said = f"parent = {version[:12]}...: its tunables did not come along"
        raise LedgerError("missing", said)
    told = write_record(arrived, {}).config_records["header"]
    told.update({"kind": "delta", "base": arrived.version, "version": version})
    parent = restored(Packet.from_record(RecordDict({"header": told, "arrays": record})), arrived)
    parent.decoded()
    return parent


def rolled_back(
    refused: Packet, parent: Packet, made: Entry, author_counts: NDArray[np.float64] | None
) -> Packet:
    """Return the packet as it was before a refused hop, except that the hop is used up.

    Tunables stay dated as if they had been updated: a delta then has more in it than it needs.
    """
    seen = np.asarray(refused.seen)
    if author_counts is not None:
        seen = np.maximum(seen - author_counts, 0)
    return replace(
        refused,
        version=parent.version,
        parent=made.parents[0] if made.parents else "",
        payload=parent.payload,
        hop=refused.hop - 1,
        visited=refused.visited[:-1],
        seen=tuple(seen.tolist()),
        samples=made.samples,
    )


def advertised_counts(node: Node, context: Context, author: str) -> NDArray[np.float64] | None:
    """Return the label counts that an author announced, None if its advert is not here."""
    for candidate in routing_table(node, context).candidates(0.0):
        if candidate.address == author:
            return np.asarray(candidate.label_counts)
    return None


def accuracy(found: Measured) -> float:
    """Return the share of right answers, as the ledger keeps it."""
    return round(float(found.correct.mean()), 4)


def accuracies(node: Node, before: float, onward: Mapping[str, Tensor]) -> dict[str, float]:
    """Return what an entry says of a version's quality on its author's data."""
    after = accuracy(Measured(*node.sample_losses(onward)))
    return {"accuracy_before": before, "accuracy_after": after}


def _at(found: Measured, chosen: NDArray[np.bool_]) -> Measured:
    return Measured(found.losses[chosen], found.correct[chosen])
