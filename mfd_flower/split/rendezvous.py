"""Where members of a cluster that are threads of one process find each other."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from mfd_flower.split.frames import LinkError
from mfd_flower.split.links import Link, Neighbours, queue_pair


def meet(
    key: Hashable,
    position: int,
    members: Sequence[str],
    timeout_s: float,
    codec: str = "fp32",
) -> Neighbours:
    """Wait for the other members of a cluster and return the links to both neighbours.

    Every position is taken by a thread of its own. Nothing of a meeting is kept once all are there
    or the first has given up.

    Parameters
    ----------
    key : hashable
        The same for all members and for no other meeting: run, round, cluster.
    position : int
        Place of the calling stage, from 0.
    members : sequence of str
        Address that holds each position.
    timeout_s : float
        Longest time to wait.
    codec : str
        As `Link` takes it.

    Raises
    ------
    LinkError
        If a member does not come in time, or two say something different.
    """
    names = tuple(members)
    if not 0 <= position < len(names):
        raise LinkError(f"position = {position}: accepted: 0 to {len(names) - 1}")
    with _lock:
        meeting = _meetings.get(key)
        if meeting is None:
            meeting = _meetings[key] = _Meeting(names, codec)
        meeting.admit(position, names, codec)
        if len(meeting.present) == len(names):
            del _meetings[key]
            meeting.over.set()
    if not meeting.over.wait(timeout_s):
        with _lock:
            if not meeting.over.is_set():
                del _meetings[key]
                absent = [n for i, n in enumerate(names) if i not in meeting.present]
                meeting.failure = f"{', '.join(absent)} did not come within {timeout_s:g} s"
                meeting.over.set()
    if meeting.failure:
        raise LinkError(f"{names[position]}: {meeting.failure} to meet {', '.join(names)}")
    upstream, downstream = meeting.ends(position)
    return Neighbours(position, names, upstream, downstream)


@dataclass
class _Meeting:
    members: tuple[str, ...]
    codec: str
    present: set[int] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)
    failure: str = ""
    links: list[tuple[Link, Link]] = field(init=False)
    """Pair ``i`` joins position ``i`` to the next one."""

    def __post_init__(self) -> None:
        follower = self.members[1:] + self.members[:1]
        self.links = [
            queue_pair(own, other, self.codec)
            for own, other in zip(self.members, follower, strict=True)
        ]

    def admit(self, position: int, members: tuple[str, ...], codec: str) -> None:
        name = members[position]
        if (members, codec) != (self.members, self.codec):
            expected = f"{', '.join(self.members)} by {self.codec}"
            raise LinkError(f"{name}: comes to {', '.join(members)} by {codec}, not {expected}")
        if position in self.present:
            raise LinkError(f"{name}: position {position} is taken already")
        self.present.add(position)

    def ends(self, position: int) -> tuple[Link, Link]:
        return self.links[position - 1][1], self.links[position][0]


_meetings: dict[Hashable, _Meeting] = {}
_lock = threading.Lock()
