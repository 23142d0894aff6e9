"""What the ledger says of a tour's sums: who added samples, what was refused, who judges next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mfd_flower.routing import Candidate
from mfd_flower.walk.node_ledger import NodeLedger
from mfd_flower.walk.visit import Visit


def added(ledger: NodeLedger, version: str) -> dict[str, int]:
    """Return who signed to have added samples to a version of sums, and how many.

    Down to W0, where walkers met by both parents. `LedgerError` if an entry is not here.
    """
    found: dict[str, int] = {}
    for made, before in itertools.pairwise(ledger.chains.trace(version)):
        if made.samples > before.samples:
            found[made.author] = made.samples - before.samples
        for other in made.parents[1:]:
            found |= added(ledger, other)
    return found


def all_refused(ledger: NodeLedger, version: str, author: str) -> bool:
    """Tell whether an author made something of a version, and all of it was refused."""
    made = [entry for entry in ledger.made_of(version) if entry.author == author]
    return bool(made) and all(ledger.refused(entry.version) for entry in made)


def next_judges(
    visit: Visit, found: Sequence[Candidate], candidates: Sequence[Candidate]
) -> Sequence[Candidate]:
    """Return who may judge what goes on: of `found`, or when the tour is over of `candidates`.

    Who has refused this node before is asked again only where nobody else is left.
    """
    found = found or (candidates if _is_unjudged(visit) else [])
    own, entries = visit.node.address, visit.ledger.chains.entries
    refusers = {each.author for each in entries if each.kind == "refusal" and each.subject == own}
    return [each for each in found if each.address not in refusers] or found


def _is_unjudged(visit: Visit) -> bool:
    """Tell whether what goes on was made here, and the tour is over."""
    if not visit.header:
        return visit.ledger.maker(visit.onward).author == visit.node.address
    arrived = visit.start.decoded()
    made = any(tensor is not arrived.get(name) for name, tensor in visit.fit.tensors.items())
    return made and not visit.header["meeting"]
