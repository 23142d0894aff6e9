"""Admission: a receiver judges the arriving version before it trains on it, or goes on without it.

The update is measured against its parent on the receiver's own samples (`ledger.audit`). The parent
is the version that the author had: what is another in it travels beside the packet unless the
receiver has it. What is refused stays out of custody, its digest and the reason stand in the
ledger, and the receiver goes on from the parent: nobody has to be asked, and the lost hop counts.
Of sums it judges what was added to the parent's (`walk.judging`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from mfd_flower.ledger import Entry, LedgerError
from mfd_flower.ledger.history import AuditError, History, Update
from mfd_flower.ledger.poisoning import Admission as Strictness
from mfd_flower.ledger.poisoning import Evidence, Measured, comparable, judge
from mfd_flower.packets import Packet, PacketError, delta, restored
from mfd_flower.walk.custody import UNTAKEN, VERDICT, enclosed, packet_in
from mfd_flower.walk.judging import added_to, header_fault, sums_fault
from mfd_flower.walk.judging import rolled_back as sums_rolled_back
from mfd_flower.walk.plan import version_zero
from mfd_flower.walk.summing import Summing
from mfd_flower.walk.trait import Layer, Trait, UntakenError
from mfd_flower.walk.visit import Visit

PARENT, HISTORY = "parent", "history"
LONGEST_REASON = 200
"""Characters of a reason that a ledger keeps."""


def judge_last(message: Message, context: Context) -> Message:
    """Judge the last version of a walk, which nobody trains on any more."""
    visit = Visit.open(context, message.content, least_ttl=0)
    version, own = visit.packet.version, visit.node.address
    try:
        if not visit.ledger.refused(version, by=own):
            for trait in visit.plan.traits:
                if trait.layer <= Layer.ADMISSION:
                    trait.arrive(visit)
    except UntakenError as error:
        return Message(RecordDict({UNTAKEN: error.record}), reply_to=message)
    refused = visit.ledger.refused(version, by=own)
    visit.save()
    told = ConfigRecord({"version": version, "accepted": not refused})
    return Message(RecordDict({**visit.answers, VERDICT: told}), reply_to=message)


@dataclass(frozen=True)
class Admission(Trait):
    """Refuse versions that made the model worse here; drop an author refused twice in a row."""

    layer: ClassVar[Layer] = Layer.ADMISSION
    needs: ClassVar = ("ledger",)
    actions: ClassVar = {"query.judge": judge_last}
    links: ClassVar = {"query.judge": "d2d"}
    judges: ClassVar[bool] = True

    def arrive(self, visit: Visit) -> None:
        """Judge the version unless others have built on it; a refusal is written down."""
        try:
            if summing := _summing(visit):
                _judge_sums(visit, summing)
                return
            record = visit.content.config_records.get(HISTORY)
            history = History() if record is None else History.from_fields(record)
            found = measured(visit, visit.packet)
            made = visit.ledger.maker(visit.packet)
            visit.claims["accuracy_before"] = accuracy(found)
            if made.author != visit.node.address and visit.ledger.is_unconfirmed(made):
                history = self._judge(visit, made, found, history)
        except (AuditError, LedgerError) as error:
            reason = getattr(error, "reason", type(error).__name__)
            raise UntakenError(reason, str(error)) from error
        if history.log_norms:
            visit.beside[HISTORY] = ConfigRecord({**history.fields()})

    def depart(self, visit: Visit) -> None:
        """Say how good the next version is, and send what is another in its parent along."""
        if _summing(visit):
            _enclose_parent(visit)
            return
        if visit.ledger.refused(visit.onward.version):
            # Nothing but what was refused before can be made here.
            visit.pass_on_unchanged()
        if not visit.changes:
            _enclose_parent(visit)
            return
        visit.claims["accuracy_after"] = accuracy(measured(visit, visit.onward))
        parent = delta(visit.start, visit.onward.version, set(visit.changes))
        visit.beside[PARENT] = enclosed(parent)

    def send(self, visit: Visit, content: RecordDict, whole: bool) -> None:
        """Leave the parent out for a receiver that made it, or can make it for itself."""
        if PARENT in content and not whole:
            made = visit.ledger.maker(visit.onward, visit.onward.parent)
            if visit.onward.parent == visit.onward.version and made.parents:
                # Only forwarded: the parent is that of the version which goes on.
                made = visit.ledger.maker(visit.onward, made.parents[0])
            if made.kind == "genesis" or made.author == visit.onward.destination:
                del content[PARENT]

    def proven(self, before: Packet | None, landed: Packet, content: RecordDict) -> Packet | None:
        """Return the version that is admitted: a receiver accepts what it makes its own from.

        The last one it only judges.
        """
        if VERDICT in content:
            return landed if content.config_records[VERDICT]["accepted"] else None
        return before if before is not None and landed.parent == before.version else None

    def _judge(self, visit: Visit, made: Entry, found: Measured, history: History) -> History:
        """Compare the version with its parent; returns the accepted updates afterwards."""
        arrived, parent = visit.packet, parent_of(visit, made)
        known, counts = measured(visit, parent), advertised_counts(visit, made.author)
        fair = np.ones(len(found.losses), bool)
        if counts is not None:
            fair = comparable(visit.node.samples.labels.numpy(), np.rint(counts).astype(np.int64))
        share = visit.plan.share(arrived.hop - 1)
        update = Update.between(parent.decoded(), arrived.decoded(), share)
        ours, theirs = (Measured(m.losses[fair], m.correct[fair]) for m in (known, found))
        verdict = judge(Evidence(theirs, ours, update), history, Strictness())
        if verdict.accepted:
            return history.after(update)
        said = f"{verdict.reason}: {verdict.measured:.3g}, bound {verdict.limit:.3g}"
        visit.ledger.refuse(arrived, said)
        before = visit.ledger.maker(arrived, parent.version)
        visit.start = rolled_back(arrived, parent, before, counts)
        visit.claims["accuracy_before"] = accuracy(known)
        return history


def _summing(visit: Visit) -> Summing | None:
    return next((trait for trait in visit.plan.traits if isinstance(trait, Summing)), None)


def _judge_sums(visit: Visit, summing: Summing) -> None:
    """Judge what was added to a parent's sums, unless others have built on it.

    A header that lies is its author's fault if that sent it; else whoever sent it is not believed.
    """
    summing.check_features(visit)
    packet, made = visit.packet, visit.ledger.maker(visit.packet)
    said = header_fault(visit, summing)
    unconfirmed = visit.ledger.is_unconfirmed(made) and made.author != visit.node.address
    if said and not (unconfirmed and made.author == packet.source):
        raise UntakenError("included", said)
    if not unconfirmed:
        return
    parent = parent_of(visit, made)
    before = visit.ledger.maker(packet, parent.version)
    if before.author == made.author and visit.ledger.is_unconfirmed(before):
        # Else it could hide one lie behind another: who refuses this one goes on from that.
        said = f"parent: {made.author} has built on its own version, which nobody has taken"
        raise UntakenError("parent", said)
    counts = np.zeros(visit.node.num_classes, np.int64)
    try:
        added = added_to(visit, summing, parent)
        counts = added.counts
        said = said or sums_fault(visit, summing, parent, added)
    except PacketError as error:
        said = said or str(error)
    if said:
        visit.ledger.refuse(packet, said[:LONGEST_REASON])
        visit.start = sums_rolled_back(visit, summing, parent, counts)


def _enclose_parent(visit: Visit) -> None:
    """Let the parent travel along until somebody has built on the version."""
    if visit.onward.version != visit.start.version:
        parent = visit.start
    elif visit.ledger.is_unconfirmed(made := visit.ledger.maker(visit.onward)):
        parent = parent_of(visit, made)
    else:
        return
    visit.beside[PARENT] = enclosed(delta(parent, visit.onward.version, set(parent.shapes)))


def parent_of(visit: Visit, made: Entry) -> Packet:
    """Return the version that the author of the arriving one began from, full.

    Raises `LedgerError`: ``missing``, if neither message nor node has it; ``parent``, if another
    one came.
    """
    version = made.parents[0]
    for known in (visit.custody.held(visit.packet.walker), version_zero(visit.node.run)):
        if known is not None and known.version == version:
            return known
    if PARENT not in visit.content.config_records:
        said = f"parent = {version[:12]}...: its tunables did not come along"
        raise LedgerError("missing", said)
    try:
        parent = restored(packet_in(visit.content, PARENT), visit.packet)
        parent.decoded()
    except PacketError as error:
        raise LedgerError("parent", f"parent: {error}") from error
    if parent.version != version:
        said = f"parent = {parent.version[:12]}...: the entry names {version[:12]}..."
        raise LedgerError("parent", said)
    return parent


def rolled_back(
    refused: Packet, parent: Packet, made: Entry, author_counts: NDArray[np.float64] | None
) -> Packet:
    """Return the packet as it was before a refused hop, except that the hop is used up.

    Tunables stay dated as if they had been updated: a delta then has more in it than it needs.
    """
    counts = 0 if author_counts is None else author_counts
    seen = np.maximum(np.asarray(refused.seen) - counts, 0)
    return replace(
        refused,
        version=parent.version,
        parent=made.parents[0] if made.parents else "",
        payload=parent.payload,
        hop=refused.hop - 1,
        visited=refused.visited[:-1],
        seen=tuple(seen.tolist()),
        samples=made.samples,
    ).knowing(parent.decoded())


def advertised_counts(visit: Visit, author: str) -> NDArray[np.float64] | None:
    """Return the label counts that an author announced, None if its advert is not here."""
    known = visit.table.candidates(visit.node.world_view().at_s)
    return next((np.asarray(c.label_counts) for c in known if c.address == author), None)


def measured(visit: Visit, packet: Packet) -> Measured:
    """Return a version on the node's own samples."""
    return Measured(*visit.node.sample_losses(packet.decoded()))


def accuracy(found: Measured) -> float:
    """Return the share of right answers, as the ledger keeps it."""
    return round(float(found.correct.mean()), 4)
