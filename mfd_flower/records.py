"""Flower's records: typed reads of their values, which are unions, and records outside the bill.

`MeteredGrid` adds `CLOCK` to every request, a ClientApp `REPORT` to its reply; each takes the
other's out before a handler or a strategy sees the message: instrumentation costs no byte.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from copy import copy
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from torch import Tensor

from mfd_flower.checks import checked, show

CLOCK = "virtual-clock"
"""When the request arrives: ``at-s``, in virtual seconds."""
REPORT = "report"
"""What the node did for the experimenter's bill: ``fits``, ``flops``, ``peak-bytes``."""
reading_headers = threading.Lock()
"""Held while numpy parses an array's header: it does so by `ast`, which Python up to 3.11.7 cannot
do in two threads at the same time (CPython issue 106905)."""


def tensors_of(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of a record that many threads may read at once."""
    with reading_headers:
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


def to_bytes(content: RecordDict) -> bytes:
    """Return records as Flower serialises them, behind a digest of that."""
    body: bytes = recorddict_to_proto(content).SerializeToString()
    return hashlib.sha256(body).digest() + body


def from_bytes(data: bytes) -> RecordDict:
    """Inverse of `to_bytes`; ValueError if a bit has changed, or it never was one."""
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("not whole: its digest is another one")
    try:
        return recorddict_from_proto(RecordDictProto.FromString(body))
    except Exception as error:  # Flower takes for granted that what it reads is its own.
        raise ValueError(f"no records of Flower's ({error})") from error


def message_bytes(message: Message) -> bytes:
    """Return a message as Flower serialises it."""
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def message_from(data: bytes) -> Message:
    """Inverse of `message_bytes`."""
    return message_from_proto(MessageProto.FromString(data))


def joined(parts: Mapping[str, RecordDict]) -> RecordDict:
    """Return the records of all parts, each under the name of its part and its own."""
    pairs = ((f"{part}/{name}", r) for part, rs in parts.items() for name, r in rs.items())
    return RecordDict(dict(pairs))


def part_of(content: RecordDict, part: str) -> RecordDict:
    """Return one of the parts that were `joined`, empty if it had no records."""
    start = f"{part}/"
    pairs = ((name.removeprefix(start), r) for name, r in content.items() if name.startswith(start))
    return RecordDict(dict(pairs))


def plain_record(values: Mapping[str, Any]) -> ConfigRecord:
    """Return numbers, texts, lists and tables of them as a record."""
    return ConfigRecord({"json": json.dumps(values)})


def plain_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `plain_record`; tuples have become lists."""
    values: dict[str, Any] = json.loads(text(record, "json"))
    return values


def _wrong_type(name: str, value: object, accepted: str) -> TypeError:
    return TypeError(f"{name} = {show(value)}: {accepted}")
