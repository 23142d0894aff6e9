"""A Grid around an engine that can be stood still: what checkpoints need of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from mfd_flower.handlers import KEEP_STATE, RECALL_STATE
from mfd_flower.records import message_bytes, message_from
from mfd_flower.results import reason_of
from mfd_flower.runtime.pass_through import PassThrough

POLL_S = 0.002
SETTLE_S = 600.0
"""Longest wall time to wait until no node is at work."""


class NodeStateError(RuntimeError):
    """A node could not keep its state, or has not kept what it is asked for."""


class Mailbox(PassThrough, Grid):
    """Holds replies that nobody has collected yet, and knows which nodes' states are not kept."""

    def __init__(self, grid: Grid, addresses: Mapping[int, str]) -> None:
        self._grid = grid
        self._ids = {address: node_id for node_id, address in addresses.items()}
        self._addresses = addresses
        self._awaited: set[str] = set()
        self._replies: dict[str, Message] = {}
        self._changed: set[str] = set()
        self.kept: dict[str, int] = {}
        """Step at which each node kept its state last; none is kept of a node that did nothing."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send."""
        requests = self._noted(messages)
        ids = list(self._grid.push_messages(requests))
        self._awaited.update(ids)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        asked = list(message_ids)
        here = [self._replies.pop(i) for i in asked if i in self._replies]
        return here + self._collected([i for i in asked if i in self._awaited])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and wait."""
        return self._grid.send_and_receive(self._noted(messages), timeout=timeout)

    def settle(self) -> bool:
        """Wait until all nodes have answered what they were sent; False if one does not."""
        end_s = time.monotonic() + SETTLE_S
        while self._awaited and time.monotonic() < end_s:
            found = self._collected(list(self._awaited))
            self._replies |= {reply.metadata.reply_to_message_id: reply for reply in found}
            if not found:
                time.sleep(POLL_S)
        return not self._awaited

    def keep_states(self, run: str, step: int) -> None:
        """Let the nodes that did something since the last time write their states down."""
        asked = sorted(self._changed)
        self._ask(KEEP_STATE, run, dict.fromkeys(asked, step))
        self._changed -= {*asked}
        self.kept |= dict.fromkeys(asked, step)

    def recall_states(self, run: str, kept: Mapping[str, int]) -> None:
        """Let all nodes go back to the states that they kept; what else they kept is dropped."""
        self.kept = dict(kept)
        self._ask(RECALL_STATE, run, {address: kept.get(address, 0) for address in self._ids})

    def state_dict(self) -> RecordDict:
        """Return the replies that wait here."""
        data = {name: message_bytes(reply) for name, reply in self._replies.items()}
        return RecordDict({"replies": ConfigRecord({**data})})

    def load_state_dict(self, state: RecordDict) -> None:
        """Take such replies in."""
        for name, data in state.config_records["replies"].items():
            assert isinstance(data, bytes)
            self._replies[name] = message_from(data)

    def _noted(self, messages: Iterable[Message]) -> list[Message]:
        requests = list(messages)
        known = (self._addresses.get(request.metadata.dst_node_id) for request in requests)
        self._changed.update(filter(None, known))
        return requests

    def _collected(self, message_ids: list[str]) -> list[Message]:
        found = list(self._grid.pull_messages(message_ids)) if message_ids else []
        self._awaited -= {reply.metadata.reply_to_message_id for reply in found}
        return found

    def _ask(self, kind: str, run: str, steps: Mapping[str, int]) -> None:
        requests = [
            Message(RecordDict({"state": ConfigRecord({"run": run, "step": step})}), node_id, kind)
            for node_id, step in ((self._ids[address], step) for address, step in steps.items())
        ]
        replies = list(self._grid.send_and_receive(requests, timeout=SETTLE_S)) if requests else []
        failed = [reply for reply in replies if reply.has_error()]
        if failed or len(replies) < len(requests):
            why = reason_of(failed[0].error.reason) if failed else f"no answer in {SETTLE_S:g} s"
            raise NodeStateError(f"{kind}: {why}")
