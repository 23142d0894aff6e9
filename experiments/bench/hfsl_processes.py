"""Run HFSL with every node a process of its own that talks gloo, and compare with one process.

    python experiments/bench/hfsl_processes.py --json hfsl_processes.json

The strategy and its client half are the ones that every run uses; only the grid differs: it hands
each message, serialised by Flower, to the process of its node. After each round a node reads what
the kernel received on its TCP sockets (``TCP_INFO``), which must be what the links counted, plus
gloo's own headers; weights must be those of the same run over queues.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import socket
import stat
import struct
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.task_identity import TaskIdentity

from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.node import initial_tunables
from mfd_flower.records import REPORT, integer
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.replies import Back
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid
from mfd_flower.split.links import Neighbours
from mfd_flower.strategy import build_strategy

BYTES_RECEIVED = struct.Struct("=128xQ")
"""Field ``tcpi_bytes_received`` of Linux' ``struct tcp_info``."""


class ElsewhereApp(ClientApp):
    """Hands a message to the process of its node and waits for the reply."""

    def __init__(self, pipes: list[Connection[Any, Any]]) -> None:
        super().__init__()
        self.pipes = pipes

    def __call__(self, message: Message, context: Context) -> Message:
        """Send type and content; a reply that begins with 1 is an error."""
        pipe = self.pipes[int(context.node_config["partition-id"])]
        pipe.send_bytes(message.metadata.message_type.encode())
        pipe.send_bytes(recorddict_to_proto(message.content).SerializeToString())
        answer = pipe.recv_bytes()
        if answer[0]:
            raise RuntimeError(answer[1:].decode())
        content = recorddict_from_proto(ProtoRecordDict.FromString(answer[1:]))
        return Message(content, reply_to=message)


def node_process(index: int, settings: dict[str, Any], pipe: Connection[Any, Any]) -> None:
    """Serve one node; runs in a process of its own."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 0
    nodes = settings["data.nodes"]
    config = {"partition-id": index, "num-partitions": nodes}
    context = Context(1, index + 1, config, RecordDict(), settings)
    received = 0
    close = Neighbours.close

    def count_then_close(neighbours: Neighbours, error: BaseException | None = None) -> None:
        nonlocal received
        received += socket_bytes()
        close(neighbours, error)

    # The sockets are gone once the links are closed.
    Neighbours.close = count_then_close  # type: ignore[assignment, method-assign]
    pipe.send_bytes(b"ready")
    while True:
        try:
            kind = pipe.recv_bytes().decode()
        except EOFError:
            return
        content = recorddict_from_proto(ProtoRecordDict.FromString(pipe.recv_bytes()))
        received = 0
        try:
            reply = app(Message(content, index + 1, kind), context)
        except Exception as error:
            pipe.send_bytes(b"\x01" + f"{type(error).__name__}: {error}".encode())
            continue
        if REPORT in reply.content:
            counted = ConfigRecord({"socket": received, "process": os.getpid()})
            reply.content["sockets"] = counted
        pipe.send_bytes(b"\x00" + recorddict_to_proto(reply.content).SerializeToString())


def socket_bytes() -> int:
    """Return what the kernel received so far on all TCP sockets of this process."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family == socket.AF_INET and one.type == socket.SOCK_STREAM:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += BYTES_RECEIVED.unpack_from(info)[0]
        except OSError:
            continue
    return total


class SocketCount(MeteredGrid):
    """Takes the socket counts out of the replies before they are billed."""

    socket_received = 0

    def _came_back(self, replies: Sequence[Message]) -> list[Back]:
        for reply in replies:
            if reply.has_content() and "sockets" in reply.content:
                told = reply.content.config_records["sockets"]
                self.socket_received += integer(told, "socket")
                self.processes = {*getattr(self, "processes", ()), integer(told, "process")}
                del reply.content["sockets"]
        return super()._came_back(replies)


def settings_of(link: str, samples: int, rounds: int, members: int) -> RunConfig:
    """Return a run of one cluster."""
    options = {"cluster_size": members, "link": link, "meet_s": 120.0}
    return RunConfig.from_tables(
        {
            "data": {
                "nodes": members,
                "train_samples": samples * members,
                "test_samples": 100,
                "validation": 0.0,
            },
            "train": {"optimizer": "sgd", "lr": 0.1},
            "strategy": {"name": "hfsl", "rounds": rounds, "options": json.dumps(options)},
        }
    )


def trained(grid: MeteredGrid, run: RunConfig) -> tuple[dict[str, torch.Tensor], float]:
    """Run the strategy; returns tunables and wall seconds."""
    initial = ArrayRecord(dict(initial_tunables(run)))
    started = time.perf_counter()
    result = build_strategy(run).start(grid, initial, num_rounds=run.strategy.rounds)
    if grid.failures or grid.updates == 0:
        raise RuntimeError(f"no round was finished: {grid.failures}")
    return dict(result.arrays.to_torch_state_dict()), time.perf_counter() - started


def over_processes(run: RunConfig) -> tuple[dict[str, torch.Tensor], SocketCount, float]:
    """Run with one process a node."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for index in range(run.data.nodes):
        own, other = context.Pipe()
        process = context.Process(target=node_process, args=(index, run.flat(), other), daemon=True)
        process.start()
        other.close()
        pipes.append(own)
        processes.append(process)
    try:
        for pipe in pipes:
            # Importing takes longer than a roll call waits.
            pipe.recv_bytes()
        with LocalGrid(ElsewhereApp(pipes), run.data.nodes, run.flat(), run.data.nodes) as inner:
            grid = SocketCount(inner, addresses=call_roll(inner, run.data.nodes))
            tensors, wall_s = trained(grid, run)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(10)
            process.kill()
    return tensors, grid, wall_s


def main() -> None:
    """Compare processes with threads; print and write the numbers."""
    parser = argparse.ArgumentParser(description="HFSL over processes against one process.")
    parser.add_argument("--samples", type=int, default=64, help="of the first member")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    size = (args.samples, args.rounds, args.members)
    apart, grid, apart_s = over_processes(settings_of("gloo", *size))
    run = settings_of("queue", *size)
    with local_grid(run) as inner:
        one = MeteredGrid(inner, addresses=call_roll(inner, args.members))
        together, together_s = trained(one, run)
    counted = grid.totals()["d2d"]
    numbers = {
        "processes": len(grid.processes),
        "counted_d2d_bytes": counted,
        "counted_in_one_process_bytes": one.totals()["d2d"],
        "socket_bytes": grid.socket_received,
        "socket_over_counted": grid.socket_received / counted,
        "largest_difference": max(
            float((apart[name] - tensor).abs().max()) for name, tensor in together.items()
        ),
        "wall_s": apart_s,
        "one_process_wall_s": together_s,
    }
    for name, value in numbers.items():
        print(f"{name:<30}{value:>16.7g}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
