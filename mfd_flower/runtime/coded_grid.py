"""A Grid around the bill that codes what a strategy sends, and decodes what nodes send back.

``CodedGrid(MeteredGrid(...), run.wire, shapes)``: what travels is billed, and the strategy sees
plain arrays. The other end is `mfd_flower.coded_handler`; what is coded and how,
`mfd_flower.wire_codec`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import copy
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from mfd_flower.checks import one_line, show
from mfd_flower.config import WireConfig
from mfd_flower.packets.frame import PacketError
from mfd_flower.records import joined, message_bytes, message_from, part_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.pass_through import PassThrough
from mfd_flower.wire_codec import ARRAYS, UPDATE, Shapes, coded_content, renamed, with_update


class CodedGrid(PassThrough, Grid):
    """Code requests and replies as `wire` says, where they are tunables of these shapes.

    A reply that is no update of what its node was sent becomes an error reply, and stands among the
    failures of the grid inside. Nothing is kept but requests that were pushed and have no answer.
    """

    _grid: MeteredGrid

    def __init__(self, grid: MeteredGrid, wire: WireConfig, shapes: Shapes) -> None:
        self._grid, self._wire, self._shapes = grid, wire, shapes
        self._asked: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Code the requests and send them."""
        requests = list(messages)
        ids = list(self._grid.push_messages(self._coded(requests)))
        self._asked |= dict(zip(ids, requests, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Collect replies and decode them."""
        return self._decoded(self._grid.pull_messages(message_ids), self._asked)

    def pull_first(
        self, message_ids: Collection[str], timeout: float
    ) -> tuple[str, Message | None] | None:
        """Wait for the reply that arrives first, as the grid inside does, and decode it."""
        found = self._grid.pull_first(message_ids, timeout)
        if found is None or found[1] is None:
            return found
        (reply,) = self._decoded([found[1]], self._asked)
        return found[0], reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, **limits: Any
    ) -> Iterable[Message]:
        """Code requests, decode replies; `limits` are the grid's inside."""
        requests = list(messages)
        replies = self._grid.send_and_receive(self._coded(requests), timeout=timeout, **limits)
        return self._decoded(replies, {each.metadata.message_id: each for each in requests})

    @property
    def nodes(self) -> list[str]:
        """Addresses of the nodes that take part now."""
        return self._grid.nodes

    def node_id(self, address: str) -> int:
        """Return Flower's node id of an address."""
        return self._grid.node_id(address)

    def state_dict(self) -> RecordDict:
        """Return what the grid inside keeps, and the requests under way."""
        asked = {message_id: message_bytes(each) for message_id, each in self._asked.items()}
        own = RecordDict({"asked": ConfigRecord({**asked})})
        return joined({"coded": own, "inner": self.inner_state()})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on from there."""
        self.load_inner_state(part_of(state, "inner"))
        for message_id, data in part_of(state, "coded").config_records["asked"].items():
            assert isinstance(data, bytes)
            self._asked[message_id] = message_from(data)

    def _coded(self, requests: list[Message]) -> list[Message]:
        # A strategy often sends one and the same content to all nodes: coded once, measured once.
        contents: dict[int, RecordDict] = {}
        coded = []
        for request in requests:
            key = id(request.content)
            if key not in contents:
                contents[key] = coded_content(request.content, self._wire, self._shapes)
            # The id that an engine writes into the metadata, the strategy's own message has too.
            sent = copy(request)
            sent.content = contents[key]
            coded.append(sent)
        return coded

    def _decoded(self, replies: Iterable[Message], asked: dict[str, Message]) -> list[Message]:
        """Decode the replies to these requests; each is answered once."""
        decoded = []
        for reply in replies:
            request = asked.pop(reply.metadata.reply_to_message_id, None)
            if request is not None:
                decoded.append(self._answer(request, reply))
        return decoded

    def _answer(self, request: Message, reply: Message) -> Message:
        if reply.has_error():
            return reply
        try:
            reply.content = self._plain(request, reply.content)
        except PacketError as error:
            why = one_line(f"its answer is refused: {error}")
            self._grid.failures.append(why)
            self._grid.failed.append(self._grid.address(request.metadata.dst_node_id))
            return Message(Error(ErrorCode.UNKNOWN, why), reply_to=request)
        return reply

    def _plain(self, request: Message, content: RecordDict) -> RecordDict:
        """Return a reply as the handler at the node made it."""
        wanted = [UPDATE] if request.metadata.message_type == MessageType.TRAIN else []
        if (found := list(content.array_records)) != wanted:
            raise PacketError(f"array records = {show(found)}: must be {show(wanted)}")
        records: dict[str, ArrayRecord] = {}
        if wanted:
            base = next(iter(request.content.array_records.values()))
            update = content.array_records[UPDATE]
            records[ARRAYS] = with_update(base, update, self._wire, self._shapes)
        return renamed(content, {UPDATE: ARRAYS}, records)
