"""Flower's records: typed reads of their values, which are unions, and records outside the bill.

`MeteredGrid` adds `CLOCK` to every request, a ClientApp `REPORT` to its reply; each takes the
other's out before a handler or a strategy sees the message: instrumentation costs no byte.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from copy import copy
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from mfd_flower.checks import checked, show

CLOCK = "virtual-clock"
"""When the request arrives: ``at-s``, in virtual seconds."""
REPORT = "report"
"""What the node did for the experimenter's bill: ``fits``, ``flops``, ``peak-bytes``."""
_reading = threading.Lock()


def tensors_of(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of a record that many threads may read at once.

    numpy parses each array's header by `ast`, which Python up to 3.11.7 cannot do in two threads at
    the same time (CPython issue 106905).
    """
    with _reading:
        return dict(record.to_torch_state_dict())


def integer(record: Mapping[str, Any], key: str) -> int:
    """Return a whole number; KeyError or TypeError if it is not there or not one."""
    return checked(key, record[key], int, error=_wrong_type)


def number(record: Mapping[str, Any], key: str) -> float:
    """Return a number; KeyError or TypeError if it is not there or not one."""
    return checked(key, record[key], float, error=_wrong_type)


def text(record: Mapping[str, Any], key: str) -> str:
    """Return a string; KeyError or TypeError if it is not there or not one."""
    return checked(key, record[key], str, error=_wrong_type)


def texts(record: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of strings; KeyError or TypeError if it is not there or not one."""
    value = record[key]
    if type(value) is not list:
        raise _wrong_type(key, value, "must be a list of strings")
    return [checked(key, item, str, error=_wrong_type) for item in value]


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


def _wrong_type(name: str, value: object, accepted: str) -> TypeError:
    return TypeError(f"{name} = {show(value)}: {accepted}")
