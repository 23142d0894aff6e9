"""Links that carry smashed data forward and gradients backward between neighbouring stages.

In GaisNet's edge-end subnetwork (arXiv 2401.02668, section II-D) the members of a cluster talk node
to node. A `Link` is one end of such a connection: it serialises, counts and reports. What moves the
bytes is its `Transport`: queues inside a process here, gloo in `mfd_flower.split.gloo`.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.packets.codecs import CODECS
from mfd_flower.split.frames import HEAD, Frame, LinkError, pack_tensor, read_head, read_tensor


class Transport(Protocol):
    """Moves frames between two peers, in order."""

    def write(self, head: bytes, data: Tensor) -> None:
        """Hand a frame over without waiting for the peer; raises `PeerGone`."""

    def read(self, timeout_s: float) -> tuple[Frame, Tensor]:
        """Return the next frame; raises `PeerGone`, or `TimeoutError` if none comes."""

    def fail(self, reason: str) -> None:
        """Tell the peer why the connection is about to end, without waiting for it."""

    def close(self) -> None:
        """End the connection once the peer has what was sent, or a short while later."""


class PeerGone(Exception):
    """The peer closed its end; the text is the reason that it gave, or empty."""


class Link:
    """One end of a connection between two stages.

    Parameters
    ----------
    transport : Transport
        Moves the bytes.
    own, peer : str
        Addresses of the two ends, for errors.
    codec : str
        ``fp32``, ``bf16``, ``fp16`` or ``int8``: how float32 data is sent from this end.

    Attributes
    ----------
    sent_bytes, received_bytes : int
        Heads and data of all tensors, as serialised.
    """

    def __init__(self, transport: Transport, own: str, peer: str, codec: str = "fp32") -> None:
        if codec not in CODECS:
            raise ConfigError("codec", codec, f"accepted: {', '.join(CODECS)}")
        self.own, self.peer, self.codec = own, peer, codec
        self.sent_bytes = self.received_bytes = 0
        self._transport: Transport | None = transport

    def send(self, tensor: Tensor) -> None:
        """Send a tensor; returns before the peer has it.

        Parameters
        ----------
        tensor : Tensor
            Float32, float64 or int64 with at most four axes. If it requires a gradient, so does the
            tensor that arrives.

        Raises
        ------
        LinkError
            If the link is closed at either end, or the tensor does not fit the codec.
        """
        transport = self._open()
        head, data = pack_tensor(tensor, self.codec)
        try:
            transport.write(head, data)
        except PeerGone as gone:
            raise self._peer_gone(gone) from None
        self.sent_bytes += len(head) + len(data)

    def recv(self, timeout_s: float) -> Tensor:
        """Wait up to `timeout_s` for the next tensor, and return it: a leaf on the CPU.

        Raises
        ------
        LinkError
            If none comes in time, or the link is closed at either end.
        """
        transport = self._open()
        try:
            frame, data = transport.read(timeout_s)
        except TimeoutError:
            silence = f"nothing arrived from {self.peer} within {timeout_s:g} s"
            raise LinkError(f"{self.own}: {silence}") from None
        except PeerGone as gone:
            raise self._peer_gone(gone) from None
        self.received_bytes += HEAD.size + len(data)
        return read_tensor(frame, data)

    def fail(self, reason: str) -> None:
        """Tell the peer why this end is about to close; it raises that as its own `LinkError`."""
        if self._transport is not None:
            self._transport.fail(reason)

    def close(self) -> None:
        """End the connection; a second call does nothing."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _open(self) -> Transport:
        if self._transport is None:
            raise LinkError(f"{self.own}: the link to {self.peer} is closed at this end")
        return self._transport

    def _peer_gone(self, gone: PeerGone) -> LinkError:
        return LinkError(str(gone) or f"{self.own}: {self.peer} closed the link")


@dataclass
class Neighbours:
    """Place of a stage in its cluster: a ring, so that the last one reaches the first.

    At the end of a ``with`` block both links are closed; if it fails the neighbours learn who did,
    and pass it on.

    Attributes
    ----------
    position : int
        Of the stage, 0 to ``len(members) - 1``.
    members : tuple of str
        Address that holds each position. An address may hold several, as the first client of a
        U-shaped split does with the first and the last.
    upstream : Link
        To the position before; of position 0 to the last one.
    downstream : Link
        To the position after; of the last one to position 0.
    """

    position: int
    members: tuple[str, ...]
    upstream: Link
    downstream: Link

    @property
    def is_first(self) -> bool:
        """Whether data enters here."""
        return self.position == 0

    @property
    def is_last(self) -> bool:
        """Whether logits leave here."""
        return self.position == len(self.members) - 1

    def d2d_sent_bytes(self) -> int:
        """Return what left this node: links between two positions of one address do not count."""
        links = (self.upstream, self.downstream)
        return sum(link.sent_bytes for link in links if link.peer != link.own)

    def close(self, error: BaseException | None = None) -> None:
        """Close both links; with an error the neighbours are told of it."""
        reason = ""
        if isinstance(error, LinkError):
            # Word of another member's failure goes on as it came.
            reason = str(error)
        elif error is not None:
            reason = f"{self.members[self.position]} failed: {type(error).__name__}: {error}"
        links = (self.upstream, self.downstream)
        # Both are told before either is waited for.
        for link in links:
            if reason:
                link.fail(reason)
        for link in links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error)


def queue_pair(left: str = "left", right: str = "right", codec: str = "fp32") -> tuple[Link, Link]:
    """Return the two ends of a link between threads of this process, by these addresses."""
    there, back = _OneWay(), _OneWay()
    return (
        Link(QueueTransport(there, back), left, right, codec),
        Link(QueueTransport(back, there), right, left, codec),
    )


@dataclass
class _OneWay:
    frames: queue.SimpleQueue[tuple[bytes, Tensor] | None] = field(
        default_factory=queue.SimpleQueue
    )
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
        self._out.frames.put((head, data))

    def read(self, timeout_s: float) -> tuple[Frame, Tensor]:
        """Take the next frame out of the queue."""
        try:
            item = self._into.frames.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if item is None:
            # For whoever reads next: a queue hands each item out once.
            self._into.frames.put(None)
            raise PeerGone(self._into.closed_because or "")
        head, data = item
        return read_head(head), data

    def fail(self, reason: str) -> None:
        """Queue the end, and why."""
        if self._out.closed_because is None:
            self._out.closed_because = reason
            self._out.frames.put(None)

    def close(self) -> None:
        """Queue the end."""
        self.fail("")
