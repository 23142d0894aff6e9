"""Learn which of Flower's random node ids is which address, before anything is billed."""

from __future__ import annotations

import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from mfd_flower.handlers import ROLL_CALL, this_process
from mfd_flower.records import integer, text

POLL_S = 0.5
STARTING = 5
"""How much longer than for each other nodes may take until the first one answers: on a loaded
machine the workers of Flower's simulation need minutes to start."""


class NodesMissingError(RuntimeError):
    """Fewer nodes than the settings need are there, or run at the same time."""


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
    is answered by an error or not at all; it is asked again until the deadline. `deadline_s` is the
    longest time to wait for the others once one has answered; for the first one, `STARTING` times
    as long. Returns addresses by node id, in order of their numbers.

    Raises
    ------
    NodesMissingError
        If not exactly `num_nodes` different nodes answer in time, the engine does not run `at_once`
        of them at the same time, or, with `one_process`, they are not threads of this process.
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
