"""Learn which of Flower's random node ids is which address, before anything is billed."""

from __future__ import annotations

import os
import socket
import sys
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from mfd_flower.records import integer, text

ROLL_CALL = "query.address"
POLL_S = 0.5
STARTING = 5
"""How much longer than for each other nodes may take until the first one answers: on a loaded
machine the workers of Flower's simulation need minutes to start."""


class NodesMissingError(RuntimeError):
    """Fewer nodes than the settings need are there, or run at the same time."""


def address(message: Message, context: Context) -> Message:
    """Answer the roll call."""
    node = {"index": int(context.node_config["partition-id"]), "workers": engine_workers()}
    content = RecordDict({"node": ConfigRecord({**node, "process": this_process()})})
    return Message(content, reply_to=message)


def this_process() -> str:
    """Return a name of this process that no other one has, on any machine."""
    return f"{socket.gethostname()}:{os.getpid()}"


def engine_workers() -> int:
    """Return how many nodes Flower's simulation runs at once; 0 outside of it, where all do.

    A node there is a Ray actor, and as many fit as its own share of the machine goes into the whole
    (``init-args-num-cpus`` over ``client-resources-num-cpus``).
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    share = {k: v for k, v in ray.get_runtime_context().get_assigned_resources().items() if v > 0}
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    if not share:
        return 0
    return sum(
        min(int(has.get(kind, 0) / part) for kind, part in share.items()) for has in machines
    )


def call_roll(
    grid: Grid,
    num_nodes: int,
    deadline_s: float = 120.0,
    *,
    at_once: int = 1,
    one_process: bool = False,
) -> dict[int, str]:
    """Ask every node for its address.

    In Flower's simulation the server side starts before the nodes do, and a message sent too early
    is answered by an error or not at all; it is asked again until the deadline.

    Parameters
    ----------
    grid : Grid
        Any engine's.
    num_nodes : int
        Nodes of the federation.
    deadline_s : float
        Longest time to wait for the others once one has answered; for the first one, `STARTING`
        times as long.
    at_once : int
        Nodes that must run at the same time.
    one_process : bool
        Whether they must be threads of this process.

    Returns
    -------
    dict of int to str
        Node id to address, in order of the addresses' numbers.

    Raises
    ------
    NodesMissingError
        If not exactly `num_nodes` different nodes answer in time, or the engine does not run them
        as they must be run.
    """
    found: dict[int, int] = {}
    end = time.monotonic() + STARTING * deadline_s
    while True:
        waiting = [node_id for node_id in grid.get_node_ids() if node_id not in found]
        ask = RecordDict({"config": ConfigRecord({"ask": "address"})})
        left_s = max(end - time.monotonic(), POLL_S)
        if waiting:
            messages = [Message(ask, node_id, ROLL_CALL) for node_id in waiting]
            nobody = not found
            for reply in grid.send_and_receive(messages, timeout=min(left_s, 30.0)):
                if reply.has_content():
                    told = reply.content.config_records["node"]
                    found[reply.metadata.src_node_id] = integer(told, "index")
                    _check_engine(integer(told, "workers"), at_once)
                    if one_process and text(told, "process") != this_process():
                        raise NodesMissingError(
                            'options.link = "queue": nodes are not threads here; accepted: "gloo"'
                        )
            if nobody and found:
                end = time.monotonic() + deadline_s
        if sorted(found.values()) == list(range(num_nodes)):
            ordered = sorted(found.items(), key=lambda item: item[1])
            return {node_id: f"n{index}" for node_id, index in ordered}
        if time.monotonic() > end or len(found) > num_nodes:
            raise NodesMissingError(
                f"data.nodes = {num_nodes}: {len(found)} nodes answered the roll call; start the"
                f" federation with as many, e.g. --federation-config 'num-supernodes={num_nodes}'"
            )
        time.sleep(POLL_S)


def _check_engine(workers: int, at_once: int) -> None:
    if 0 < workers < at_once:
        raise NodesMissingError(
            f"{at_once} nodes must run at once, this simulation runs {workers}; start it with"
            f' --federation-config "init-args-num-cpus={at_once} client-resources-num-cpus=1"'
        )
