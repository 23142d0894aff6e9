"""What our Grids have in common: how messages are made, and what one around another leaves be."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class FreeMessages:
    """Mixin: a message belongs to no grid until it is sent."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class PassThrough(FreeMessages):
    """Mixin: run and nodes are those of the grid inside."""

    _grid: Grid

    @property
    def run(self) -> Run:
        """Run information."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the run of the grid inside."""
        self._grid.set_run(run)

    def inner_state(self) -> RecordDict:
        """Return what the grid inside keeps of a run, nothing if it keeps nothing."""
        return self._grid.state_dict() if hasattr(self._grid, "state_dict") else RecordDict()

    def load_inner_state(self, state: RecordDict) -> None:
        """Give it back to the grid inside."""
        if hasattr(self._grid, "load_state_dict"):
            self._grid.load_state_dict(state)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the grid inside."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Collect replies."""
        return self._grid.pull_messages(message_ids)
