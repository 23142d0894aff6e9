"""Stages in processes of their own, over TCP, do what threads over queues do, byte for byte."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from mfd_flower.config import TrainConfig
from mfd_flower.models.stages import SplitStage, split_model
from mfd_flower.models.tunables import get_tunables
from mfd_flower.split.frames import LinkError
from mfd_flower.split.gloo import connect, free_port
from mfd_flower.split.links import Neighbours
from mfd_flower.split.pipeline import infer_stage, run_stage
from tests.split.cluster import (
    TIMEOUT_S,
    batches,
    d2d_sent_bytes,
    small_model,
    together,
    train_split,
)

SGD = TrainConfig(optimizer="sgd", lr=0.1)
SIZES = [8, 5]
CUTS = [1, 2, 3]
MEMBERS = ["n0", "n1", "n2", "n3"]


def train_in_process(port: int, position: int, results: Any) -> None:
    """Train one stage and answer one request; runs in a process of its own."""
    torch.set_num_threads(1)
    stages = split_model(small_model(), CUTS)
    inputs, labels = batches(SIZES, torch.float32)
    with connect("127.0.0.1", port, position, MEMBERS, 300, codec="fp16") as neighbours:
        run_stage(
            SplitStage(stages[position], SGD),
            neighbours,
            timeout_s=300,
            inputs=inputs if position == 0 else (),
            labels=labels if position == 3 else (),
            micro_batches=3,
        )
        counted = d2d_sent_bytes(neighbours)
        answer = infer_stage(
            stages[position],
            neighbours,
            timeout_s=300,
            inputs=inputs[0] if position == 0 else None,
            micro_batches=2,
        )
    tunables = {
        name: tensor.numpy() for name, tensor in get_tunables(stages[position].part).items()
    }
    logits = None if answer.logits is None else answer.logits.numpy()
    results.put((position, tunables, counted, logits))


@pytest.mark.slow
def test_processes_train_as_threads_do() -> None:
    context = multiprocessing.get_context("forkserver")
    # Torch and Lightning are imported once, for all four.
    context.set_forkserver_preload([__name__])
    results, port = context.SimpleQueue(), free_port()
    processes = [
        context.Process(target=train_in_process, args=(port, position, results), daemon=True)
        for position in range(4)
    ]
    for process in processes:
        process.start()
    model, ends = small_model(), list[Neighbours]()
    train_split(model, CUTS, SIZES, SGD, micro_batches=3, codec="fp16", ends=ends)
    try:
        for process in processes:
            process.join(300)
            assert process.exitcode == 0
        found = sorted(results.get() for _ in processes)
    finally:
        for process in processes:
            process.kill()
    trained = {n: torch.from_numpy(t) for _, part, _, _ in found for n, t in part.items()}
    torch.testing.assert_close(trained, get_tunables(model), rtol=0, atol=1e-6)
    ends.sort(key=lambda end: end.position)
    assert [counted for _, _, counted, _ in found] == [d2d_sent_bytes(end) for end in ends]
    logits = model.eval()(batches(SIZES, torch.float32)[0][0])
    torch.testing.assert_close(torch.from_numpy(found[0][3]), logits, rtol=0, atol=2e-2)


def over_gloo(members: list[str], work: Any) -> list[Any]:
    """Let threads of this process work, each with a process group of its own."""
    port = free_port()

    def member(position: int) -> Any:
        with connect("127.0.0.1", port, position, members, TIMEOUT_S) as neighbours:
            return work(position, neighbours)

    with ThreadPoolExecutor(len(members)) as pool:
        futures = [pool.submit(member, position) for position in range(len(members))]
        return [future.exception() or future.result() for future in futures]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_gloo_and_queues_join_the_same_ring(count: int) -> None:
    def work(position: int, neighbours: Neighbours) -> tuple[list[float], int]:
        heard = []
        for number in range(3):
            neighbours.downstream.send(torch.full((number,), float(position)))
            neighbours.upstream.send(torch.full((number, 2), 10.0 + position))
            heard.append(float(neighbours.upstream.recv(TIMEOUT_S).sum()))
            heard.append(float(neighbours.downstream.recv(TIMEOUT_S).sum()))
        return heard, d2d_sent_bytes(neighbours)

    members = [f"n{i}" for i in range(count)]
    assert over_gloo(members, work) == together(members, work)


def test_the_reason_of_a_failure_travels_through_the_cluster() -> None:
    def work(position: int, neighbours: Neighbours) -> None:
        if position == 2:
            raise ValueError("burnt out")
        neighbours.downstream.recv(TIMEOUT_S)

    errors = over_gloo(["n0", "n1", "n2", "n3"], work)
    assert isinstance(errors[2], ValueError)
    # n3 listens to n0, which was told by n1.
    assert [str(errors[i]) for i in (0, 1, 3)] == ["n2 failed: ValueError: burnt out"] * 3


def test_a_peer_that_closed_or_is_silent_is_named() -> None:
    def work(position: int, neighbours: Neighbours) -> None:
        if position == 0:
            neighbours.downstream.recv(TIMEOUT_S)

    errors = over_gloo(["n0", "n1"], work)
    assert str(errors[0]) == "n0: n1 closed the link"

    def wait(position: int, neighbours: Neighbours) -> None:
        if position == 0:
            neighbours.downstream.recv(0.05)
        else:
            neighbours.upstream.recv(TIMEOUT_S)

    errors = over_gloo(["n0", "n1"], wait)
    assert str(errors[0]) == "n0: nothing arrived from n1 within 0.05 s"
    assert isinstance(errors[1], LinkError)
    assert "n0" in str(errors[1])


def test_a_member_that_never_comes_is_named() -> None:
    port = free_port()
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(connect, "127.0.0.1", port, i, MEMBERS, 0.3) for i in (0, 2, 3)]
        with pytest.raises(LinkError, match=r"n0 at 127\.0\.0\.1.*n1.* did not come within 0\.3 s"):
            calls[0].result(10)
        with pytest.raises(LinkError, match="n2 at"):
            calls[1].result(10)
    with pytest.raises(LinkError, match=r"n1 at 127\.0\.0\.1.*n0 cannot be met"):
        connect("127.0.0.1", free_port(), 1, MEMBERS, 0.1)
