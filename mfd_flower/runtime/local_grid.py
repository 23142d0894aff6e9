"""Flower's Grid in one process: ClientApp calls on a thread pool, deterministic and quick."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from joblib import cpu_count

from mfd_flower.runtime.pass_through import FreeMessages


class LocalGrid(FreeMessages, Grid):
    """Run a ClientApp for many nodes inside this process.

    Node ids are 1, 2, ...; node ``i + 1`` has partition id ``i``. Calls of one
    `send_and_receive` run side by side on `workers` threads, replies come in the order of
    sending, and what a ClientApp raises comes back as Flower's own error reply. One node handles
    one message at a time. Messages are not serialised: each side gets records of its own that share
    the array data. `workers` are as many as there are cores that this process may use without it.
    Nodes keep checkpoints of their state below `state_dir`.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Any] | None = None,
        workers: int | None = None,
        state_dir: Path | None = None,
    ) -> None:
        self._client_app = client_app
        where = {"state-dir": str(state_dir)} if state_dir else {}
        self._run = Run.create_empty(run_id=1)
        self.contexts = {
            index + 1: Context(
                run_id=self._run.run_id,
                node_id=index + 1,
                node_config={"partition-id": index, "num-partitions": num_nodes, **where},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for index in range(num_nodes)
        }
        self._pool = ThreadPoolExecutor(workers or cpu_count(), thread_name_prefix="node")
        # A reply that another grid's checkpoint kept must not be taken for one of this grid's.
        self._message_ids = (f"{uuid4().hex}-{number}" for number in count(1))
        self._pending: dict[str, Future[Message]] = {}
        self._last_of_node: dict[int, Future[Message]] = {}
        # Flower refuses to make a Message outside a run.
        TaskIdentity.run_id = self._run.run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        TaskIdentity.task_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Drop calls that have not begun and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Replace the run information."""
        self._run = run

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes, in order of their partition ids."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start the calls; returns the ids by which `pull_messages` finds the replies."""
        ids = []
        for message in messages:
            message_id = next(self._message_ids)
            message.metadata.__dict__["_message_id"] = message_id
            node_id = message.metadata.dst_node_id
            before = self._last_of_node.get(node_id)
            future = self._pool.submit(self._call, message, before)
            self._pending[message_id] = self._last_of_node[node_id] = future
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there; each is handed out once."""
        ready = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        return [self._pending.pop(message_id).result() for message_id in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Call the nodes and return their replies in the order of sending."""
        ids = list(self.push_messages(messages))
        wait([self._pending[message_id] for message_id in ids], timeout=timeout)
        return self.pull_messages(ids)

    def _call(self, message: Message, before: Future[Message] | None) -> Message:
        if before is not None:
            # The call in front was submitted earlier, so it has a thread already.
            wait([before])
        context = self.contexts.get(message.metadata.dst_node_id)
        if context is None:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "no such node"), reply_to=message)
        received = copy(message)
        received.content = _own_records(message.content)
        try:
            reply = self._client_app(received, context)
            if reply.has_content():
                reply.content = _own_records(reply.content)
        except Exception:
            error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, traceback.format_exc())
            reply = Message(error, reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
        return reply


def _own_records(content: RecordDict) -> RecordDict:
    """Copy the records, so that neither side sees what the other writes into them later."""
    own = content.copy()
    for name, record in content.items():
        copied: Any = record.copy()
        copied.update({key: v.copy() for key, v in record.items() if isinstance(v, list)})
        own[name] = copied
    return own
