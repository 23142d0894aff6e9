"""Links that carry smashed data forward and gradients backward between neighbouring stages.

In GaisNet's edge-end subnetwork (arXiv 2401.02668, section II-D) the members of a cluster talk node
to node. A `Link` is one end of such a connection: it serialises, counts and reports. What moves the
bytes is its `Transport`: `mfd_flower.split.queues` inside a process, `mfd_flower.split.gloo`
between processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor

from mfd_flower.split.frames import HEAD, Frame, LinkError, pack_tensor, read_tensor


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
    """One end of a connection between two stages, `own` and `peer` by address.

    Float32 data is sent from this end by `codec`, a key of `mfd_flower.packets.codecs.CODECS`.
    `sent_bytes` and `received_bytes` count heads and data of all tensors, as serialised.
    """

    def __init__(self, transport: Transport, own: str, peer: str, codec: str = "fp32") -> None:
        self.own, self.peer, self.codec = own, peer, codec
        self.sent_bytes = self.received_bytes = 0
        self._transport = transport

    def send(self, tensor: Tensor) -> None:
        """Send a tensor as `pack_tensor` takes it; returns before the peer has it.

        LinkError if the peer closed the link, or the tensor cannot be sent.
        """
        head, data = pack_tensor(tensor, self.codec)
        try:
            self._transport.write(head, data)
        except PeerGone as gone:
            raise self._peer_gone(gone) from None
        self.sent_bytes += len(head) + len(data)

    def recv(self, timeout_s: float) -> Tensor:
        """Wait up to `timeout_s` for the next tensor, and return it: a leaf on the CPU.

        LinkError if none comes in time, or the peer closed the link.
        """
        try:
            frame, data = self._transport.read(timeout_s)
        except TimeoutError:
            silence = f"{self.own}: nothing arrived from {self.peer} within {timeout_s:g} s"
            raise LinkError(silence) from None
        except PeerGone as gone:
            raise self._peer_gone(gone) from None
        self.received_bytes += HEAD.size + len(data)
        return read_tensor(frame, data)

    def fail(self, reason: str) -> None:
        """Tell the peer why this end is about to close; it raises that as its own `LinkError`."""
        self._transport.fail(reason)

    def close(self) -> None:
        """End the connection, once."""
        self._transport.close()

    def _peer_gone(self, gone: PeerGone) -> LinkError:
        return LinkError(str(gone) or f"{self.own}: {self.peer} closed the link")


@dataclass
class Neighbours:
    """Place of a stage in its cluster: a ring, so that the last one reaches the first.

    At the end of a ``with`` block both links are closed; if it fails the neighbours learn who did,
    and pass it on.
    """

    position: int
    """Of the stage, 0 to ``len(members) - 1``."""
    members: tuple[str, ...]
    """Address that holds each position; one may hold several."""
    upstream: Link
    """To the position before; of position 0 to the last one."""
    downstream: Link
    """To the position after; of the last one to position 0."""

    @property
    def is_first(self) -> bool:
        """Whether data enters here."""
        return self.position == 0

    @property
    def is_last(self) -> bool:
        """Whether logits leave here."""
        return self.position == len(self.members) - 1

    def bytes_by_peer(self) -> tuple[tuple[str, int, int], ...]:
        """Return peer, bytes sent and bytes received of each link that leaves the node."""
        links = (self.upstream, self.downstream)
        return tuple((x.peer, x.sent_bytes, x.received_bytes) for x in links if x.peer != x.own)

    def close(self, error: BaseException | None = None) -> None:
        """Close both links; with an error the neighbours are told of it."""
        links = (self.upstream, self.downstream)
        if error is not None:
            name = self.members[self.position]
            # Word of another member's failure goes on as it came.
            of_another = isinstance(error, LinkError)
            reason = str(error) if of_another else f"{name} failed: {type(error).__name__}: {error}"
            # Both are told before either is waited for.
            for link in links:
                link.fail(reason)
        for link in links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(error)
