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
        # Node by id of the message; nobody waits for the latter, but they may still be answered.
        self._awaited: dict[str, int] = {}
        self._given_up: dict[str, int] = {}
        self._replies: dict[str, Message] = {}
        self._changed: set[str] = set()
        self.kept: dict[str, int] = {}
        """Step of each node's state in the last checkpoint; none is of a node that did nothing."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send."""
        requests = self._noted(messages)
        ids = list(self._grid.push_messages(requests))
        self._awaited |= {i: r.metadata.dst_node_id for i, r in zip(ids, requests, strict=True)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        asked = list(message_ids)
        here = [self._replies.pop(i) for i in asked if i in self._replies]
        sent = [i for i in asked if i in self._awaited or i in self._given_up]
        return here + self._collected(sent)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and wait."""
        return self._grid.send_and_receive(self._noted(messages), timeout=timeout)

    def settle(self) -> bool:
        """Wait until all nodes have answered what they were sent; False if one does not.

        The next time it is not waited for again.
        """
        end_s = time.monotonic() + SETTLE_S
        while self._awaited and time.monotonic() < end_s:
            found = self._collected(list(self._awaited))
            self._replies |= {reply.metadata.reply_to_message_id: reply for reply in found}
            if not found:
                time.sleep(POLL_S)
        settled = not self._awaited
        self._given_up |= self._awaited
        self._awaited.clear()
        return settled

    def keep_states(self, run: str, identity: str, step: int) -> None:
        """Let the nodes that did something since the last time write their states down.

        If NodeStateError is raised, all still have what `kept` names.
        """
        asked = sorted(self._changed)
        steps = {a: {"step": step, "before": self.kept.get(a, 0)} for a in asked}
        self._ask(KEEP_STATE, {"run": run, "identity": identity}, steps)
        self._changed -= {*asked}
        self.kept |= dict.fromkeys(asked, step)

    def recall_states(self, run: str, identity: str, kept: Mapping[str, int]) -> None:
        """Let all nodes go back to the states that they kept; what else they kept is dropped."""
        self.kept = dict(kept)
        steps = {address: {"step": kept.get(address, 0)} for address in self._ids}
        self._ask(RECALL_STATE, {"run": run, "identity": identity}, steps)

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
        for request in requests:
            self._note(request.metadata.dst_node_id)
        return requests

    def _collected(self, message_ids: list[str]) -> list[Message]:
        found = list(self._grid.pull_messages(message_ids)) if message_ids else []
        for reply in found:
            message_id = reply.metadata.reply_to_message_id
            self._awaited.pop(message_id, None)
            # Its node may have worked on since its state was kept.
            if message_id in self._given_up:
                self._note(self._given_up.pop(message_id))
        return found

    def _note(self, node_id: int) -> None:
        if node_id in self._addresses:
            self._changed.add(self._addresses[node_id])

    def _ask(
        self, kind: str, run: Mapping[str, str], steps: Mapping[str, Mapping[str, int]]
    ) -> None:
        requests = [
            Message(RecordDict({"state": ConfigRecord({**run, **step})}), self._ids[address], kind)
            for address, step in steps.items()
        ]
        replies = list(self._grid.send_and_receive(requests, timeout=SETTLE_S)) if requests else []
        failed = [reply for reply in replies if reply.has_error()]
        if failed or len(replies) < len(requests):
            why = reason_of(failed[0].error.reason) if failed else f"no answer in {SETTLE_S:g} s"
            raise NodeStateError(f"{kind}: {why}")
