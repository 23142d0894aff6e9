"""How a receiver judges sums: what was added to the parent's, before it adds its own.

In this order, the first fault named in one line: who is said to be in them, against who signed; how
many samples; whether any samples have such sums (`models.algebra`); and whether the head is worse
with them on the receiver's own samples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from mfd_flower.ledger.poisoning import Admission, Measured, Verdict, comparable, compare
from mfd_flower.models.algebra import difference, fault
from mfd_flower.models.closed_form import Head, HeadKind, solve
from mfd_flower.models.sums import Sums, SumsError
from mfd_flower.packets import Packet
from mfd_flower.packets.members import bitmap
from mfd_flower.walk.node_ledger import dropped
from mfd_flower.walk.signed import added
from mfd_flower.walk.summing import Summing
from mfd_flower.walk.visit import Visit

LEAST_KEPT_SHARE = 0.5
"""Share of a class in what is added, of that in what was known, from which on its samples should
not be worse for it. ``experiments/bench/judging.py`` measures what it is good for."""


def header_fault(visit: Visit, summing: Summing) -> str:
    """Return what a packet says wrongly of who is in it, or of how many samples, or nothing."""
    packet, ledger = visit.packet, visit.ledger
    told, signed = summing.tour.members(packet.included), added(ledger, packet.version).keys()
    if more := sorted(told - signed):
        return f"included: {more[0]} has signed nothing that is in these sums"
    if fewer := sorted(signed - told):
        return f"included: {fewer[0]} has signed what is in these sums, and is left out"
    if packet.samples != (made := ledger.maker(packet)).samples:
        return f"samples = {packet.samples}: {made.author} has signed {made.samples}"
    return ""


def sums_fault(visit: Visit, summing: Summing, parent: Packet, part: Sums) -> str:
    """Return why what was added to a parent's sums is refused, or nothing."""
    signed, before = (added(visit.ledger, p.version) for p in (visit.packet, parent))
    if (claimed := sum(signed.values()) - sum(before.values())) != part.samples:
        return f"samples: {claimed} were signed, {part.samples} are in the sums"
    return fault(part, summing.features) or _loss_fault(visit, summing, parent, part)


def added_to(visit: Visit, summing: Summing, parent: Packet) -> Sums:
    """Return what the sums have that the parent's have not; `PacketError` if they are no sums."""
    arrived, before = (summing.read(visit.node.run, p.decoded()) for p in (visit.packet, parent))
    return difference(arrived, before)


def rolled_back(
    visit: Visit, summing: Summing, parent: Packet, counts: NDArray[np.int64]
) -> Packet:
    """Return the packet as it was before a refused hop, except that the hop is used up.

    Who was refused may add itself again when the walk comes by, to be judged by another, unless it
    was refused twice; where walkers meet, not before they have met. `counts` are the samples of
    each class that it said to have added.
    """
    refused, ledger = visit.packet, visit.ledger
    before, signed = ledger.maker(refused, parent.version), added(ledger, parent.version)
    passed = summing.tour.members(refused.passed) | dropped(ledger.chains.entries)
    passed |= {ledger.maker(refused).author} & {refused.meeting}
    return replace(
        refused,
        version=parent.version,
        parent=before.parents[0] if before.parents else "",
        payload=parent.payload,
        shapes=parent.shapes,
        hop=refused.hop - 1,
        visited=refused.visited[:-1],
        seen=tuple(np.maximum(np.asarray(refused.seen) - np.maximum(counts, 0), 0).tolist()),
        samples=before.samples,
        included=bitmap(signed),
        passed=bitmap(passed - signed.keys()),
    ).knowing(parent.decoded())


def loss_verdict(
    head: HeadKind,
    before: Sums,
    part: Sums,
    features: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> Verdict:
    """Compare the heads with and without what was added, on a receiver's own samples.

    Both heads have seen half of these samples and are measured on the other half: so they know the
    receiver's classes, however little the parent holds. Only classes count whose share did not fall
    by more than half: where others are added a regression puts a class lower, and honestly so.
    Hence to bring a class that the receiver has never seen is no fault, and it has nothing to
    measure it with either.

    Parameters
    ----------
    before, part : Sums
        The parent's without the receiver's own samples, and what was added.
    features, labels : array
        The receiver's own samples, ``(n, d)`` whole numbers and ``(n,)`` classes.
    """
    classes = len(before.counts)
    counts = before.counts + np.bincount(labels, minlength=classes)
    kept = part.counts * counts.sum() >= LEAST_KEPT_SHARE * counts * part.samples
    fair = comparable(labels, part.counts) & kept[labels]
    halves, without, with_it = _halves(labels), [], []
    for fold in (0, 1):
        seen, held_out = halves != fold, (halves == fold) & fair
        known = before + Sums.of(features[seen], labels[seen], classes)
        told = features[held_out], labels[held_out]
        without.append(_measured(solve(head, known), *told))
        with_it.append(_measured(solve(head, known + part), *told))
    return compare(_joined(with_it), _joined(without), Admission())


def _loss_fault(visit: Visit, summing: Summing, parent: Packet, part: Sums) -> str:
    """Return by how much the head is worse with what was added, or nothing."""
    node, frozen = visit.node, summing.tuned.frozen(visit)
    before = summing.read(node.run, parent.decoded())
    if node.address in added(visit.ledger, parent.version):
        try:
            before = before.without(node.sums(frozen, summing.features, fits=0))
        except SumsError:
            return f"included: the samples of {node.address} are not in the parent's sums"
    own = node.whole_features(frozen, summing.features)
    verdict = loss_verdict(summing.head, before, part, *own)
    if verdict.accepted:
        return ""
    return f"{verdict.reason}: {verdict.measured:.3g}, bound {verdict.limit:.3g}"


def _halves(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 or 1 for each sample, ``(n,)``: of each class half of them, give or take one."""
    halves = np.zeros(len(labels), np.int64)
    halves[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2
    return halves


def _measured(head: Head, features: NDArray[np.int64], labels: NDArray[np.int64]) -> Measured:
    """Return the losses of a head on samples ``(n, d)``, and what it gets right."""
    logits = head.logits(features)
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return Measured(losses, logits.argmax(1) == labels)


def _joined(parts: list[Measured]) -> Measured:
    return Measured(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("losses", "correct"))
    )
