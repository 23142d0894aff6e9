"""Whether a node has added itself in a tour: what it wrote down when it did, and what undoes that.

The record lies in the node's own state beside the packet that it sent on, so that no node is in the
sums twice, whatever is sent twice.
"""

from __future__ import annotations

from flwr.app import ConfigRecord

from mfd_flower.records import text
from mfd_flower.walk.signed import all_refused
from mfd_flower.walk.tours import key
from mfd_flower.walk.traits.ledger import Ledger
from mfd_flower.walk.visit import Visit


def count(visit: Visit) -> None:
    """Write down that this node adds itself to the packet that came."""
    told = {name: getattr(visit.start, name) for name in ("walker", "source", "version")}
    visit.keep_for_all(key("counted", visit), ConfigRecord({**told}))


def is_counted(visit: Visit) -> bool:
    """Tell whether this node has added itself in this tour, to sums not void and not refused."""
    record = visit.context.state.config_records.get(key("counted", visit))
    if record is None:
        return False
    packet, own = visit.start, visit.node.address
    signed = any(isinstance(trait, Ledger) for trait in visit.plan.traits)
    version, sender = text(record, "version"), text(record, "source")
    if not signed:
        return True
    if all_refused(visit.ledger, version, own):
        return False
    same_chain = text(record, "walker") == packet.walker
    return not (same_chain and visit.ledger.voided(packet, version, own, by=sender))
