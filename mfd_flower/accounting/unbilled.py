"""Records that travel in a message outside the bill, so that instrumentation costs no byte.

`MeteredGrid` adds `CLOCK` to every request, a ClientApp `REPORT` to its reply; each takes the
other's out before a handler or a strategy sees the message.
"""

from __future__ import annotations

from copy import copy

from flwr.app import ConfigRecord, Message, RecordDict

CLOCK = "virtual-clock"
"""When the request arrives: ``at-s``, in virtual seconds."""
REPORT = "report"
"""What the node did for the experimenter's bill: ``fits``, ``flops``, ``peak-bytes``."""


def stamped(message: Message, at_s: float) -> Message:
    """Return a message with the same metadata whose content also says when it arrives."""
    # Whatever id an engine writes into the metadata, the message that was given has it too.
    sent = copy(message)
    sent.content = message.content.copy()
    sent.content[CLOCK] = ConfigRecord({"at-s": at_s})
    return sent


def taken(content: RecordDict, name: str) -> ConfigRecord | None:
    """Take a record out of a content; None if it is not there."""
    record = content.pop(name, None)
    return record if isinstance(record, ConfigRecord) else None
