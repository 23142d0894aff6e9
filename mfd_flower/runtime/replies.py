"""What comes back from nodes: when they were done, what is billed for it, and who failed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from flwr.app import ConfigRecord, Message
from flwr.common.constant import ErrorCode

from mfd_flower.accounting.wire import measure
from mfd_flower.network.clock import START, Moment
from mfd_flower.network.world import EDGE, Transfer, World
from mfd_flower.records import REPORT, taken
from mfd_flower.results import reason_of
from mfd_flower.runtime.bill import Bill, Billed
from mfd_flower.runtime.member_links import MemberLinks, Reported

LISTS = ("visits", "sources", "sent_s", "begun_s", "failures", "failed")
"""What only grows; a checkpoint adds to it."""
RAISED = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""What tells that a node's code failed, not the network."""


class Asked(NamedTuple):
    """A request that has no reply yet."""

    address: str
    link: str
    arrived: Moment
    """When its node begins with it; infinite if it does not get there."""
    source: str
    sent_s: float
    known: Moment
    """When its sender knows that it arrived, or is lost."""
    until_s: float
    """Until when its reply is waited for."""

    @classmethod
    def of(cls, kept: Sequence[Any]) -> Self:
        """Return what a checkpoint kept."""
        address, link, arrived, source, sent_s, known, until_s = kept
        return cls(address, link, Moment.of(arrived), source, sent_s, Moment.of(known), until_s)

    def kept(self) -> list[Any]:
        """Return it for a checkpoint."""
        address, link, arrived, source, sent_s, known, until_s = self
        return [address, link, arrived.numbers, source, sent_s, known.numbers, until_s]

    @property
    def arrives(self) -> bool:
        """Whether it gets there."""
        return not math.isinf(self.arrived.at_s)


class Back(NamedTuple):
    """A reply, and what is to be billed for it."""

    reply: Message
    asked: Asked
    report: ConfigRecord | None
    """What its node did."""
    done: Moment
    """When that was done, or the sender of the request knows that nothing was."""
    upload: Billed | None
    """What its node sends up."""
    links: MemberLinks
    """Those of all whose replies came with it."""
    lost: str = ""
    """Why it counts as lost, if it does."""


class Replies(Bill):
    """Bills what nodes did for requests that are under way, and notes who did what.

    Attributes
    ----------
    visits, sources
        Address of every node that trained, in order, and where the request for that came from;
        empty for the server. Requests that got no answer, or an old one, are none.
    sent_s, begun_s
        When those requests were sent, and when their nodes began with them, in virtual seconds.
    failures, failed
        Reason of every error reply and missing reply, and the address that it concerns.
    raised
        Address and last line of the first error that a node's own code raised; else empty.
    """

    def __init__(self, world: World, addresses: Mapping[int, str]) -> None:
        super().__init__(world)
        self._addresses = addresses
        self._asked: dict[str, Asked] = {}
        self.visits: list[str] = []
        self.sources: list[str] = []
        self.sent_s: list[float] = []
        self.begun_s: list[float] = []
        self.failures: list[str] = []
        self.failed: list[str] = []
        self.raised = ""

    def address(self, node_id: int) -> str:
        """Return the address of a Flower node."""
        return self._addresses.get(node_id, str(node_id))

    def arrival_s(self, message_id: str) -> float:
        """Return when a message that has no reply yet arrives, or is known not to."""
        asked = self._asked[message_id]
        return (asked.arrived if asked.arrives else asked.known).at_s

    def _came_back(self, replies: Sequence[Message]) -> list[Back]:
        """Return what replies that came together are to be billed for."""
        asked, reports = [], []
        for reply in replies:
            address = self.address(reply.metadata.src_node_id)
            unknown = Asked(address, "star", START, "", 0.0, START, math.inf)
            asked.append(self._asked.pop(reply.metadata.reply_to_message_id, unknown))
            reports.append(None if reply.has_error() else taken(reply.content, REPORT))
        worked = zip(asked, reports, strict=True)
        links = MemberLinks(
            self._world, [Reported(a.address, r, a.arrived.at_s) for a, r in worked if r]
        )
        each = zip(replies, asked, reports, strict=True)
        return [self._back_of(reply, a, report, links) for reply, a, report in each]

    def _back_of(
        self, reply: Message, asked: Asked, report: ConfigRecord | None, links: MemberLinks
    ) -> Back:
        if reply.has_error():
            return Back(reply, asked, None, self._told(reply, asked), None, links)
        done, lost = asked.arrived, ""
        if report:
            done = self._worked(asked.address, report, done, links)
            if peer := links.broken(asked.address, report):
                lost = f"its link to {peer} broke"
        if asked.link != "star" or lost:
            return Back(reply, asked, report, done, None, links, lost)
        up, until_s = Transfer(asked.address, EDGE, "up"), max(asked.until_s, done.at_s)
        size, message_type = measure(reply.content), reply.metadata.message_type
        upload = Billed(up, size, message_type, done.at_s, until_s)
        return Back(reply, asked, report, done, upload, links)

    def _told(self, reply: Message, asked: Asked) -> Moment:
        """Return when the sender of a request knows of the error that answers it."""
        if not asked.arrives:
            return asked.known
        if reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE:
            return self._timed_out(asked)
        sender = asked.source or EDGE
        back_s = self._world.latency_s(asked.address, sender, asked.arrived.at_s)
        return asked.arrived.later(asked.arrived.at_s + back_s, "waiting")

    def _worked(
        self, address: str, report: ConfigRecord, since: Moment, links: MemberLinks
    ) -> Moment:
        """Return when a node is done with what it reports and began then."""
        if sensing_s := self.sensing_s(address, report):
            since = since.later(since.at_s + sensing_s, "sensing")
        work_s = self.work_s(address, report, since.at_s)
        beside_s = links.beside_s(address, report, work_s, since.at_s)
        done = since.later(since.at_s + work_s, "compute")
        return done.later(done.at_s + beside_s, "d2d") if beside_s else done

    def _bill_back(self, back: Back) -> None:
        """Bill what a node did, or note why it did nothing."""
        reply, asked, report, done, upload, links, lost = back
        message_type = reply.metadata.message_type
        if reply.has_error():
            self._note_failure(asked.address, str(reply.error.reason).strip())
            if reply.error.code in RAISED and not self.raised:
                self.raised = f"{asked.address}: {reason_of(reply.error.reason)}"
            if asked.source:
                self._clock.occupy(asked.source, done)
            return
        if lost:
            self._note_failure(asked.address, lost)
        if report is not None:
            if message_type.partition(".")[0] == "train":
                self.visits.append(asked.address)
                self.sources.append(asked.source)
                self.sent_s.append(asked.sent_s)
                self.begun_s.append(asked.arrived.at_s)
            self.bill_work(asked.address, report, message_type, asked.arrived.at_s, links)
        self._clock.occupy(asked.address, done)
        if upload is None:
            self._bytes["relay"] += measure(reply.content).wire
            if done.at_s > self._known.at_s:
                self._known = done

    def _give_up(self, asked: Asked) -> None:
        """Let the sender of a request without a reply wait for it as long as it does."""
        self._note_failure(asked.address, "no reply in time")
        over = self._timed_out(asked)
        self._know(over)
        if asked.source:
            self._clock.occupy(asked.source, over)

    def _timed_out(self, asked: Asked) -> Moment:
        since = asked.arrived if asked.arrives else asked.known
        return since.later(since.at_s + self._world.timeout_s, "waiting")

    def _note_failure(self, address: str, reason: str) -> None:
        self.failures.append(reason)
        self.failed.append(address)
