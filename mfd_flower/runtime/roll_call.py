"""Learn which of Flower's random node ids is which address, before anything is billed."""

from __future__ import annotations

import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from mfd_flower.records import integer

ROLL_CALL = "query.address"
POLL_S = 0.5


class NodesMissingError(RuntimeError):
    """Fewer nodes than the settings name answered in time."""


def call_roll(grid: Grid, num_nodes: int, deadline_s: float = 120.0) -> dict[int, str]:
    """Ask every node for its address.

    In Flower's simulation the server side starts before the nodes do, and a message sent too early
    is answered by an error or not at all; it is asked again until the deadline.

    Returns
    -------
    dict of int to str
        Node id to address, in order of the addresses' numbers.

    Raises
    ------
    NodesMissingError
        If not exactly `num_nodes` different nodes answer within `deadline_s`.
    """
    found: dict[int, int] = {}
    end = time.monotonic() + deadline_s
    while True:
        waiting = [node_id for node_id in grid.get_node_ids() if node_id not in found]
        ask = RecordDict({"config": ConfigRecord({"ask": "address"})})
        left_s = max(end - time.monotonic(), POLL_S)
        if waiting:
            messages = [Message(ask, node_id, ROLL_CALL) for node_id in waiting]
            for reply in grid.send_and_receive(messages, timeout=min(left_s, 30.0)):
                if reply.has_content():
                    index = integer(reply.content.config_records["node"], "index")
                    found[reply.metadata.src_node_id] = index
        if sorted(found.values()) == list(range(num_nodes)):
            ordered = sorted(found.items(), key=lambda item: item[1])
            return {node_id: f"n{index}" for node_id, index in ordered}
        if time.monotonic() > end or len(found) > num_nodes:
            raise NodesMissingError(
                f"data.nodes = {num_nodes}: {len(found)} nodes answered the roll call; start the"
                f" federation with as many, e.g. --federation-config 'num-supernodes={num_nodes}'"
            )
        time.sleep(POLL_S)
