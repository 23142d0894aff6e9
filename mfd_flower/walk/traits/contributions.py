"""What each node gave: sums go round once more, and each node measures them without itself.

Sums without one node's are those of a federation that it never joined, to the last bit
(leave-one-out as in data valuation, Ghorbani and Zou 2019, arXiv 1904.02868, but exact and without
training). As a by-product every node has the final sums, and so the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.models.closed_form import solve, squared_error
from mfd_flower.node import with_head
from mfd_flower.packets import Packet
from mfd_flower.packets.members import bitmap
from mfd_flower.records import text
from mfd_flower.routing import Candidate
from mfd_flower.walk.relay import Relay
from mfd_flower.walk.summing import Summing
from mfd_flower.walk.tours import key, newest, towards
from mfd_flower.walk.trait import Trait
from mfd_flower.walk.visit import Visit

TOLD, GAVE = "told", "gave"


def tell(message: Message, context: Context) -> Message:
    """Tell the experimenter what this node measured."""
    state = context.state.config_records
    found = next((state[name] for name in state if name.startswith(f"{GAVE}/")), ConfigRecord())
    return Message(RecordDict({GAVE: found}), reply_to=message)


@dataclass(frozen=True)
class Contributions(Trait):
    """Let finished sums go to every node again, which tells how good they are without it."""

    needs: ClassVar = ("summing",)
    excludes: ClassVar = ("admission",)
    actions: ClassVar = {"query.gave": tell}
    links: ClassVar = {"query.gave": "relay"}

    def route(self, visit: Visit, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """When the tour is over, go to who has not measured yet."""
        summing = _summing(visit)
        if candidates or not _is_over(summing, visit):
            return candidates
        told = self._told(summing, visit) | {visit.node.address}
        left = {f"n{i}" for i in range(summing.tour.nodes)} - told
        if not left or (found := towards(visit, left, [])):
            return found if left else []
        if visit.header:
            visit.beside[TOLD] = ConfigRecord({TOLD: bitmap(told | left)})
        return []

    def depart(self, visit: Visit) -> None:
        """Measure the finished sums without this node, and with it."""
        summing, node = _summing(visit), visit.node
        if not _is_over(summing, visit):
            return
        told = self._told(summing, visit)
        visit.beside[TOLD] = ConfigRecord({TOLD: bitmap(told | {node.address})})
        if node.address in told or node.address not in summing.tour.members(
            visit.header["included"]
        ):
            return
        frozen = summing.tuned.frozen(visit)
        whole = summing.read(node.run, visit.fit.tensors)
        own = node.sums(frozen, summing.features, fits=0)
        found: dict[str, Any] = {"node": node.address, "samples": own.samples}
        for name, sums in (("with", whole), ("without", whole.without(own))):
            model = with_head(node.run, frozen, solve(summing.head, sums), summing.features)
            measured = node.evaluate(model)
            found[f"accuracy_{name}"], found[f"loss_{name}"] = measured.accuracy, measured.loss
            found[f"squared_error_{name}"] = squared_error(sums, whole)
        visit.keep_for_all(key(GAVE, visit), ConfigRecord(found))

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Ask all nodes for what they measured; for the experimenter, outside the bill."""
        asked = {name: RecordDict() for name in relay.addresses}
        answers = relay.requests.ask_all("query.gave", asked)
        told = [dict(answer.config_records[GAVE]) for answer in answers.values()]
        return {"contributions": [each for each in told if each]}

    def _told(self, summing: Summing, visit: Visit) -> frozenset[str]:
        """Return who has measured already, or was given up."""
        for records in (visit.beside, visit.content):
            if TOLD in records:
                return summing.tour.members(text(records.config_records[TOLD], TOLD))
        return frozenset()


def _summing(visit: Visit) -> Summing:
    return next(trait for trait in visit.plan.traits if isinstance(trait, Summing))


def _is_over(summing: Summing, visit: Visit) -> bool:
    """Tell whether all are added, or asked in vain, and all walkers have met."""
    told = visit.header or vars(visit.onward)
    in_session = "features" not in visit.header and not newest(visit).features
    over = not told["meeting"] and not summing.tour.left(told, newest(visit).walker)
    return over and not in_session
