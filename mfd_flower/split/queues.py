"""Links between threads of one process: a queue for each direction, and where members meet."""

from __future__ import annotations

import queue
import threading
from collections.abc import Hashable, Sequence

from torch import Tensor

from mfd_flower.split.frames import Frame, LinkError, read_head
from mfd_flower.split.links import Link, Neighbours, PeerGone


def meet(
    key: Hashable, position: int, members: Sequence[str], timeout_s: float, codec: str = "fp32"
) -> Neighbours:
    """Wait for the other members of a cluster and return the links to both neighbours.

    Nothing of a meeting is kept once all are there or the first has given up: then all raise
    LinkError, which names who did not come. `key` is the same for all members and for no other
    meeting. `members` are the addresses that hold each position; each is taken by a thread of its
    own.
    """
    names = tuple(members)
    with _lock:
        meeting = _meetings.setdefault(key, _Meeting(names, codec))
        if position in meeting.present:
            raise LinkError(f"{names[position]}: position {position} is taken already")
        meeting.present.add(position)
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
    return Neighbours(position, names, meeting.links[position - 1][1], meeting.links[position][0])


def queue_pair(left: str, right: str, codec: str = "fp32") -> tuple[Link, Link]:
    """Return the two ends of a link between threads of this process, by these addresses."""
    there, back = _OneWay(), _OneWay()
    left_end, right_end = QueueTransport(there, back), QueueTransport(back, there)
    return Link(left_end, left, right, codec), Link(right_end, right, left, codec)


class _Meeting:
    def __init__(self, members: tuple[str, ...], codec: str) -> None:
        self.present: set[int] = set()
        self.over = threading.Event()
        self.failure = ""
        following = members[1:] + members[:1]
        # Pair i joins position i to the next one.
        self.links = [queue_pair(*pair, codec) for pair in zip(members, following, strict=True)]


_meetings: dict[Hashable, _Meeting] = {}
_lock = threading.Lock()


class _OneWay(queue.SimpleQueue[tuple[bytes, Tensor] | None]):
    closed_because: str | None = None
    """Set by the writing end when it closes."""


class QueueTransport:
    """Frames in a queue for each direction."""

    def __init__(self, out: _OneWay, into: _OneWay) -> None:
        self._out, self._into = out, into

    def write(self, head: bytes, data: Tensor) -> None:
        """Queue a frame."""
        if self._into.closed_because is not None:
            raise PeerGone(self._into.closed_because)
        self._out.put((head, data))

    def read(self, timeout_s: float) -> tuple[Frame, Tensor]:
        """Take the next frame out of the queue."""
        try:
            item = self._into.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if item is None:
            # For whoever reads next: a queue hands each item out once.
            self._into.put(None)
            raise PeerGone(self._into.closed_because or "")
        head, data = item
        return read_head(head), data

    def fail(self, reason: str) -> None:
        """Queue the end, and why."""
        if self._out.closed_because is None:
            self._out.closed_because = reason
            self._out.put(None)

    def close(self) -> None:
        """Queue the end."""
        self.fail("")
