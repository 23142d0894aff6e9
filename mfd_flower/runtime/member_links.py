r"""How long members of split models took together: over the links between them, at the same time.

A member reports what it computed and what went over each of its links; how long that took is the
world's to say. Its part of a round takes

.. math::

    T = \frac{m + s - 1}{m} \max\Big(\frac{F}{v},\; \max_c t_c\Big) + B\, h\, \ell

with s stages, m micro-batches, B batches, latency :math:`\ell`, the member's FLOPs F at rate v and
the time :math:`t_c` for which link c was busy, in the direction that takes longer: the time of a
pipeline that is filled and drained once a batch (Narayanan et al. 2021, section 2.2.1, arXiv
2104.04473). In training a batch crosses every cut there and back before the next begins, in
inference every cut and then the way to the asker: h links between nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from flwr.app import ConfigRecord

from mfd_flower.network.delivery import Sending, deliver
from mfd_flower.network.world import EDGE, Link, Transfer, World
from mfd_flower.records import number

Sent = tuple[Transfer, int]
"""What went over one link in one direction, and how many bytes."""


class Reported(NamedTuple):
    """What a node did, and when it began."""

    address: str
    report: ConfigRecord
    began_s: float


class MemberLinks:
    """The links of members that worked side by side; without members there are none."""

    def __init__(self, world: World, reports: Sequence[Reported]) -> None:
        self._world = world
        began_s: dict[Sent, float] = {}
        counts: Counter[Sent] = Counter()
        for address, report, since_s in reports:
            own = Counter(_links(address, report))
            counts |= own  # Both ends tell of a link, two links may carry equally much.
            for sent in own:
                began_s[sent] = max(since_s, began_s.get(sent, 0.0))
        found = list(counts.elements())
        sendings = [Sending(transfer, size, began_s[transfer, size]) for transfer, size in found]
        self._air_s: dict[Sent, float] = {}
        self._lost: set[Sent] = set()
        for sent, each in zip(found, deliver(world, sendings), strict=True):
            self._air_s[sent] = max(each.air_s, self._air_s.get(sent, 0.0))
            if math.isinf(each.arrives_s):
                self._lost.add(sent)

    def billed_by(
        self, address: str, report: ConfigRecord
    ) -> Iterator[tuple[Transfer, int, float]]:
        """Yield transfers that a member's report is billed for, bytes and time on the air.

        That is what it sent, and what the edge server sent to it.
        """
        for transfer, size_bytes in _links(address, report):
            if transfer.source in (address, EDGE):
                yield transfer, size_bytes, self._air_s[transfer, size_bytes]

    def bytes_of(self, address: str, report: ConfigRecord) -> int:
        """Return the bytes that a member sent and received over its links."""
        return sum(size_bytes for _, size_bytes in _links(address, report))

    def broken(self, address: str, report: ConfigRecord) -> str:
        """Return whom a member lost its link to; empty if to nobody."""
        lost = (each for each, _ in (s for s in _links(address, report) if s in self._lost))
        ends = ({*each[:2]} - {address} for each in lost)
        return next((end for pair in ends for end in pair), "")

    def beside_s(self, address: str, report: ConfigRecord, compute_s: float, at_s: float) -> float:
        """Return by how much longer than it computed a member's part took."""
        if "fill" not in report:
            return 0.0
        own = list(_links(address, report))
        busy_s = max([compute_s, *(self._air_s[each] for each in own)])
        peers = {end for transfer, _ in own for end in transfer[:2]} - {address}
        latency_s = max((self._world.latency_s(address, p, at_s) for p in peers), default=0.0)
        return pipeline_s(report, busy_s, latency_s) - compute_s


def pipeline_s(report: Mapping[str, object], busy_s: float, latency_s: float) -> float:
    """Return the time of a pipeline whose slowest part is busy for so long."""
    here = cast(ConfigRecord, report)
    return number(here, "fill") * busy_s + number(here, "crossings") * latency_s


def _links(address: str, report: ConfigRecord) -> Iterator[Sent]:
    """Yield what went over each link of a member, by its report; nothing of other nodes."""
    peers = cast(Sequence[str], report.get("peers", ()))
    counts = (cast(Sequence[int], report.get(name, ())) for name in ("sent", "received"))
    for peer, sent, received in zip(peers, *counts, strict=True):
        link: Link = "up" if peer == EDGE else "d2d"
        yield Transfer(address, peer, link), sent
        back: Link = "down" if peer == EDGE else "d2d"
        yield Transfer(peer, address, back), received
