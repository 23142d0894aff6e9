"""An AI packet as Flower carries it: the header in a ConfigRecord, the payload in an ArrayRecord.

A ConfigRecord nests nothing, so mappings travel as JSON text; Flower cannot count the bytes of an
empty string or list, so those are left out. NumPy has no bfloat16: it travels as int16.
"""

from __future__ import annotations

import struct
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import check_names, show
from mfd_flower.packets.codecs import Spec
from mfd_flower.packets.errors import PacketError, wrong
from mfd_flower.packets.header import Header
from mfd_flower.packets.payload import implied_specs, view

HEADER, ARRAYS = "header", "arrays"
MAPPINGS = ("shapes", "updated")
EMPTY = {"parent": "", "base": "", "visited": [], "seen": [], "below_gate": False}
NPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype("<f4"),
    torch.bfloat16: np.dtype("<i2"),
    torch.float16: np.dtype("<f2"),
    torch.int8: np.dtype("|i1"),
}
NPY_MAGIC = b"\x93NUMPY\x01\x00"


def write_record(header: Header, payload: dict[str, Tensor]) -> RecordDict:
    """Return both as records named ``header`` and ``arrays``."""
    values = header.values()
    for name in MAPPINGS:
        values[name] = dump_json(values[name])
    config: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in ("", ()) and value is not False
    }
    arrays = ArrayRecord()
    for name, tensor in sorted(payload.items()):
        plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        arrays[name] = Array(plain.numpy())
    return RecordDict({HEADER: ConfigRecord(config), ARRAYS: arrays})


def read_header(content: RecordDict) -> Header:
    """Read the header out of a packet's records."""
    config = content.config_records.get(HEADER)
    if config is None:
        raise PacketError("header: there is no such ConfigRecord")
    # What is missing is None, which no field accepts.
    names = (part.name for part in fields(Header))
    values: dict[str, Any] = {**dict.fromkeys(names), **EMPTY, **config}
    for name in MAPPINGS:
        described = values.get(name)
        if not isinstance(described, str):
            raise PacketError(f"{name} = {show(described)}: must be JSON text")
        values[name] = load_json(name, described, wrong)
    header = Header(**check_names(Header, values, "header.", wrong))
    for name in MAPPINGS:
        if dump_json(getattr(header, name)) != config[name]:
            raise PacketError(f"{name}: spelled in another way than sorted, compact JSON")
    return header


def read_arrays(header: Header, content: RecordDict, max_bytes: int) -> dict[str, Tensor]:
    """Read the payload that belongs to `header`; sizes are compared before anything is copied."""
    arrays = content.array_records.get(ARRAYS)
    if arrays is None:
        raise PacketError("arrays: there is no such ArrayRecord")
    specs = implied_specs(header, arrays)
    bodies = {name: _npy_body(name, arrays[name], spec) for name, spec in specs.items()}
    if (size := sum(len(body) for body in bodies.values())) > max_bytes:
        raise PacketError(f"payload: {size} bytes, at most {max_bytes} are accepted")
    return {name: view(bytearray(body), specs[name]) for name, body in bodies.items()}


def _npy_body(name: str, array: Array, spec: Spec) -> memoryview:
    """Return the data in an array, whose npy header must say exactly what `spec` does.

    `Array.numpy` is not used: it allocates what the header claims before it looks for the data.
    """
    dtype = NPY_DTYPES[spec.dtype]
    told = (array.stype, array.dtype, array.shape)
    if told != ("numpy.ndarray", str(dtype), spec.shape):
        raise PacketError(
            f"payload {name}: {show(array.dtype)} {show(str(array.shape))}, "
            f"must be {dtype} {spec.shape}"
        )
    data = array.data
    if type(data) is not bytes or len(data) < 10 or data[:8] != NPY_MAGIC:
        raise PacketError(f"payload {name}: not an npy file of version 1.0")
    (length,) = struct.unpack_from("<H", data, 8)
    if len(data) != 10 + length + spec.size_bytes:
        found = len(data) - 10 - length
        raise PacketError(f"payload {name}: {found} bytes of data, must be {spec.size_bytes}")
    wanted = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {spec.shape}, }}"
    if data[10 : 10 + length] != wanted.encode().ljust(length - 1) + b"\n":
        raise PacketError(f"payload {name}: npy header is not {wanted}")
    return memoryview(data)[10 + length :]
