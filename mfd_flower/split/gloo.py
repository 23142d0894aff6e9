"""Links between processes and machines: one gloo process group of `torch.distributed` a cluster.

The group is an object of its own and not torch's global one, so that one process can be in several
clusters. Its rank 0 keeps the store that the others find it by.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mfd_flower.split.frames import HEAD, Frame, LinkError, pack_goodbye, read_head, read_reason
from mfd_flower.split.links import Link, Neighbours, PeerGone

UNREAD_TENSORS = 128
"""Heads and data that may wait for the peer; the pipeline has fewer under way."""
TAKEN_WITHIN_S = 60.0
"""How long the oldest of them may wait then."""
GOODBYE_S = 2.0
"""How long a closing end waits until the peer has what was sent."""
_Gloo: Any = dist.ProcessGroupGloo
"""Torch's stubs know neither its options nor its transfers."""


def connect(
    address: str,
    port: int,
    position: int,
    members: Sequence[str],
    timeout_s: float,
    codec: str = "fp32",
) -> Neighbours:
    """Meet the other members of a cluster over TCP and return the links to both neighbours.

    As `mfd_flower.split.queues.meet`, for two members or more. `address` is the host of position 0,
    as the others reach it, with a free `port`. LinkError if one does not come in time or the port
    cannot be used.
    """
    names, size = tuple(members), len(members)
    limit, end = timedelta(seconds=timeout_s), time.monotonic() + timeout_s
    where = f"{names[position]} at {address}:{port}"
    try:
        store = dist.TCPStore(
            address, port, is_master=position == 0, timeout=limit, wait_for_workers=False
        )
        store.set(f"here/{position}", "")
    except RuntimeError as error:
        raise LinkError(f"{where}: {names[0]} cannot be met: {_first_line(error)}") from None
    try:
        store.wait([f"here/{rank}" for rank in range(size)], _left(end))
        options = _Gloo._Options()
        options._devices = [_Gloo.create_device(hostname=_own_address(address))]
        options._timeout = max(timedelta(seconds=1), _left(end))
        group = _Gloo(store, position, size, options)
    except RuntimeError as error:
        absent = [name for rank, name in enumerate(names) if not _is_here(store, rank)]
        what = f"{', '.join(absent)} did not come" if absent else _first_line(error)
        raise LinkError(f"{where}: {what} within {timeout_s:g} s") from None
    before, after = (position - 1) % size, (position + 1) % size
    # A ring of two joins the same ranks twice: the tag is the position that a link leads away from.
    upstream = GlooTransport(store, group, before, tag=before)
    downstream = GlooTransport(store, group, after, tag=position)
    links = (
        Link(upstream, names[position], names[before], codec),
        Link(downstream, names[position], names[after], codec),
    )
    return Neighbours(position, names, *links)


def free_port() -> int:
    """Return a TCP port that nothing on this machine listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class GlooTransport:
    """Frames between two ranks of a process group."""

    def __init__(self, store: dist.TCPStore, group: Any, rank: int, tag: int) -> None:
        # The store lives as long as the group, both until the last of their links is closed.
        self._store, self._group = store, group
        self._rank, self._tag = rank, tag
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()

    def write(self, head: bytes, data: Tensor) -> None:
        """Begin to send a frame."""
        self._send(torch.frombuffer(bytearray(head), dtype=torch.uint8))
        if len(data):
            self._send(data)

    def read(self, timeout_s: float) -> tuple[Frame, Tensor]:
        """Wait for the next frame."""
        end = time.monotonic() + timeout_s
        frame = read_head(bytes(self._recv(HEAD.size, end).numpy()))
        data = self._recv(frame.size_bytes, end)
        if frame.format is None:
            raise PeerGone(read_reason(data))
        return frame, data

    def fail(self, reason: str) -> None:
        """Begin to send the reason."""
        # If the peer is gone itself, nobody is left to be told.
        with contextlib.suppress(PeerGone):
            self.write(*pack_goodbye(reason))

    def close(self) -> None:
        """Wait until the peer has what was sent, then let go of the group."""
        end = time.monotonic() + GOODBYE_S
        with contextlib.suppress(RuntimeError):
            while self._under_way:
                self._under_way.popleft()[0].wait(_left(end))
        self._under_way.clear()
        del self._group, self._store

    def _send(self, data: Tensor) -> None:
        try:
            self._under_way.append((self._group.send([data], self._rank, self._tag), data))
            # A gloo send does not say when it is done; it is waited for when it must be.
            while len(self._under_way) > UNREAD_TENSORS:
                self._under_way.popleft()[0].wait(timedelta(seconds=TAKEN_WITHIN_S))
        except RuntimeError:
            raise PeerGone from None

    def _recv(self, size_bytes: int, end: float) -> Tensor:
        data = torch.empty(size_bytes, dtype=torch.uint8)
        if not size_bytes:
            return data
        try:
            self._group.recv([data], self._rank, self._tag).wait(_left(end))
        except RuntimeError as error:
            if time.monotonic() >= end:
                raise TimeoutError from None
            raise PeerGone from error
        return data


def _left(end: float) -> timedelta:
    return timedelta(seconds=max(0.001, end - time.monotonic()))


def _own_address(address: str) -> str:
    """Return the address of this machine on the way to `address`; nothing is sent."""
    family, kind, protocol, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def _is_here(store: dist.TCPStore, rank: int) -> bool:
    try:
        return store.check([f"here/{rank}"])
    except RuntimeError:
        return False


def _first_line(error: RuntimeError) -> str:
    return str(error).splitlines()[0]
