"""Links count what they carry, and never leave a member waiting for one that is gone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mfd_flower.split import queues
from mfd_flower.split.frames import HEAD, LinkError, pack_tensor
from mfd_flower.split.links import Neighbours
from mfd_flower.split.queues import meet, queue_pair
from tests.split.cluster import d2d_sent_bytes, together


@pytest.mark.parametrize("codec", ["fp32", "bf16", "fp16", "int8"])
def test_both_ends_count_the_serialised_bytes(codec: str) -> None:
    left, right = queue_pair("n0", "n1", codec)
    tensors = [torch.randn(2, 5, 8), torch.randn(3, 8), torch.arange(3)]
    for tensor in tensors:
        left.send(tensor)
        right.recv(1)
    right.send(tensors[1])
    sizes = [HEAD.size + len(pack_tensor(tensor, codec)[1]) for tensor in tensors]
    assert left.sent_bytes == right.received_bytes == sum(sizes)
    assert (right.sent_bytes, left.received_bytes) == (sizes[1], 0)


def test_a_silent_peer_is_named() -> None:
    left, _ = queue_pair("n0", "n1")
    with pytest.raises(LinkError, match=r"n0: nothing arrived from n1 within 0\.01 s"):
        left.recv(0.01)


def test_what_was_sent_before_the_end_still_arrives() -> None:
    left, right = queue_pair("n0", "n1")
    left.send(torch.ones(2))
    left.close()
    assert right.recv(1).sum() == 2
    for use in (lambda: right.recv(1), lambda: right.recv(1), lambda: right.send(torch.ones(1))):
        with pytest.raises(LinkError, match="n1: n0 closed the link"):
            use()


def test_a_waiting_end_is_woken_by_the_reason() -> None:
    left, right = queue_pair("n0", "n1")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(right.recv, 20.0)
        left.fail("n0 failed: out of battery")
        with pytest.raises(LinkError, match=r"^n0 failed: out of battery$"):
            waiting.result(5)


def test_an_unknown_codec_is_refused() -> None:
    left, _ = queue_pair("n0", "n1", "fp8")
    with pytest.raises(LinkError, match="codec = 'fp8': accepted: fp32, bf16, fp16, int8"):
        left.send(torch.ones(1))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_links_join_the_members_in_a_ring(count: int) -> None:
    def work(position: int, neighbours: Neighbours) -> list[int]:
        neighbours.downstream.send(torch.tensor([position]))
        neighbours.upstream.send(torch.tensor([100 + position]))
        return [int(neighbours.upstream.recv(5)), int(neighbours.downstream.recv(5))]

    heard = together([f"n{i}" for i in range(count)], work)
    assert heard == [[(i - 1) % count, 100 + (i + 1) % count] for i in range(count)]


def test_a_link_within_one_address_is_not_device_to_device() -> None:
    def work(position: int, neighbours: Neighbours) -> int:
        neighbours.downstream.send(torch.ones(1))
        neighbours.upstream.recv(5)
        return d2d_sent_bytes(neighbours)

    frame = HEAD.size + 4
    assert together(["n0", "n1", "n0"], work) == [frame, frame, 0]


def test_meetings_of_several_clusters_do_not_mix() -> None:
    def cluster(key: str, position: int) -> int:
        with meet(key, position, ["a", "b"], 10) as neighbours:
            neighbours.downstream.send(torch.tensor([int(key)]))
            return int(neighbours.upstream.recv(10))

    with ThreadPoolExecutor(20) as pool:
        calls = [(str(key), position) for position in (0, 1) for key in range(10)]
        heard = list(pool.map(lambda call: cluster(*call), calls))
    assert heard == [int(key) for key, _ in calls]
    assert not queues._meetings


def test_who_does_not_come_is_named_to_all_that_did() -> None:
    gone = threading.Barrier(2)

    def come(position: int, timeout_s: float) -> str:
        gone.wait(5)
        with pytest.raises(LinkError) as caught:
            meet("late", position, ["n4", "n5", "n6"], timeout_s)
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(come, (0, 2), (0.2, 5.0)))
    for error in errors:
        assert "n5 did not come within" in error
    assert not queues._meetings


def test_a_place_that_is_taken_is_refused() -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, "odd", 0, ["n0", "n1"], 20)
        while "odd" not in queues._meetings:
            assert not first.done()
        with pytest.raises(LinkError, match="n0: position 0 is taken already"):
            meet("odd", 0, ["n0", "n1"], 5)
        second = meet("odd", 1, ["n0", "n1"], 20)
        second.upstream.send(torch.ones(1))
        assert first.result(20).downstream.recv(5) == 1
