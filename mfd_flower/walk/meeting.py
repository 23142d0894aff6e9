"""Where several walkers meet: what each brings lies in one node's state until the last has come."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord

from mfd_flower.models.sums import Sums
from mfd_flower.packets.members import bitmap
from mfd_flower.records import text, texts
from mfd_flower.walk.tours import Tour, key
from mfd_flower.walk.visit import Visit


def gather(visit: Visit, tour: Tour, brought: Sums) -> Sums | None:
    """Add what other walkers left here to what this one brings; the last goes on with all of it.

    Returns the total, or None if nothing is to be added: this walker is the first to come, or a
    node is in both sums, which the answer then says.
    """
    packet, record = visit.start, _left_here(visit)
    included, walkers = tour.members(packet.included), [packet.walker]
    total = None
    if record is not None:
        others = tour.members(text(record, "included"))
        if both := included & others:
            said = f"included: {', '.join(sorted(both))} in both sums, which are not added up"
            visit.answers["apart"] = ConfigRecord({"text": said})
            return None
        features, classes = brought.cross.shape
        total = brought + Sums.from_bytes(record["data"], features - 1, classes)  # type: ignore[arg-type]
        included, walkers = included | others, [*texts(record, "walkers"), packet.walker]
        visit.merged.append(text(record, "version"))
    visit.header["included"] = bitmap(included)
    if len(walkers) == tour.walkers:
        # Who was asked in vain is asked once more.
        visit.header |= {"meeting": "", "passed": "", "toured": ""}
    return total


def leave(visit: Visit, total: Sums, version: str) -> None:
    """Keep the sums of a version, over whom the header names, for walkers that are to come."""
    record, walkers = _left_here(visit), [visit.start.walker]
    if "apart" in visit.answers or not visit.header["meeting"]:
        return
    if record is not None:
        walkers = [*texts(record, "walkers"), *walkers]
    told: dict[str, Any] = {"data": total.to_bytes(), "included": visit.header["included"]}
    told |= {"version": version, "walkers": walkers}
    visit.keep_for_all(key("gathered", visit), ConfigRecord(told))


def _left_here(visit: Visit) -> ConfigRecord | None:
    return visit.context.state.config_records.get(key("gathered", visit))
