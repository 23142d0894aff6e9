"""Messages to addresses, over Flower's grid: asked once, insisted on, or waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from flwr.app import Message, RecordDict

from mfd_flower.runtime.metered_grid import MeteredGrid

TRIES = 3
"""How often a message that got no answer is repeated before its receiver counts as gone."""
POLL_S = 0.002


class Requests:
    """Carries single messages; after `timeout_s` of wall time one is unanswered.

    A message between nodes that carries no packet names its `source`, as an IP packet does, in the
    field that Flower has for groups: it is sent when that node is free.
    """

    def __init__(self, grid: MeteredGrid, timeout_s: float) -> None:
        self._grid = grid
        self._timeout_s = timeout_s

    def push(self, address: str, kind: str, content: RecordDict, source: str = "") -> str:
        """Send a message and wait for nothing; returns its id."""
        request = self._request(address, kind, content, source)
        (message_id,) = self._grid.push_messages([request])
        return message_id

    def wait(self, message_id: str) -> Message | None:
        """Wait for the reply to a message that was pushed."""
        end_s = time.monotonic() + self._timeout_s
        while time.monotonic() < end_s:
            if replies := list(self._grid.pull_messages([message_id])):
                return replies[0]
            time.sleep(POLL_S)
        return None

    def ask(self, address: str, kind: str, content: RecordDict, source: str = "") -> Message | None:
        """Ask once; None if nothing comes back, an error where the node or the network says so."""
        request = self._request(address, kind, content, source)
        replies = list(self._grid.send_and_receive([request], timeout=self._timeout_s))
        return replies[0] if replies else None

    def content(
        self, address: str, kind: str, content: RecordDict, source: str = ""
    ) -> RecordDict | None:
        """Ask once; None if no content comes back."""
        reply = self.ask(address, kind, content, source)
        return reply.content if reply is not None and reply.has_content() else None

    def insist(
        self, address: str, kind: str, content: RecordDict, source: str = ""
    ) -> RecordDict | None:
        """Ask up to `TRIES` times; None if no content comes back."""
        tries = (self.content(address, kind, content, source) for _ in range(TRIES))
        return next((found for found in tries if found is not None), None)

    def ask_all(self, kind: str, contents: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
        """Ask many at once; returns the contents that came, by address."""
        return self._grid.ask(kind, contents, self._timeout_s)

    def ask_each(
        self, kind: str, asked: Sequence[tuple[str, str, RecordDict]]
    ) -> list[RecordDict | None]:
        """Carry messages from one node to another, all at once; returns their answers.

        Each is its sender, its receiver and what it says.
        """
        requests = [self._request(to, kind, content, source) for source, to, content in asked]
        replies = self._grid.send_and_receive(requests, timeout=self._timeout_s)
        found = {r.metadata.reply_to_message_id: r.content for r in replies if r.has_content()}
        return [found.get(request.metadata.message_id) for request in requests]

    def last_reason(self) -> str:
        """Return why the last message failed."""
        reasons = self._grid.failures
        return f"last reason: {reasons[-1] if reasons else 'no answer in time'}"

    def _request(self, address: str, kind: str, content: RecordDict, source: str = "") -> Message:
        return Message(content, self._grid.node_id(address), kind, group_id=source)
