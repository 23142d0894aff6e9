"""A tensor as bytes between two stages: a head of fixed length, then the data.

A codec of `mfd_flower.packets.codecs` makes float32 data smaller, token by token: a row of a
codec is a token here. Everything else is sent as it is. A head that does not fit together is
refused before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mfd_flower.packets.codecs import CODECS, Spec, decode, encode, layouts
from mfd_flower.packets.frame import PacketError

HEAD = struct.Struct("<4BQ4I")
"""Kind, format, whether a gradient is wanted, axes; bytes of data; length of each axis."""
TENSOR, GOODBYE = 0, 1
AS_IT_IS = (torch.float32, torch.float64, torch.int64)
FORMATS: tuple[torch.dtype | str, ...] = (*AS_IT_IS, *(name for name in CODECS if name != "fp32"))
"""What a head's second number stands for: a dtype, or the codec of a float32 tensor."""
LARGEST_DATA_BYTES = 1 << 31
LONGEST_REASON_BYTES = 1 << 12


class LinkError(RuntimeError):
    """A link that cannot go on, said in one line: who, and why."""


@dataclass(frozen=True)
class Frame:
    """A head that was read."""

    format: torch.dtype | str | None
    """Of the data; None is a goodbye whose data is the reason as text."""
    shape: tuple[int, ...]
    wants_gradient: bool
    """Whether the sender waits for the gradient of this tensor."""
    size_bytes: int
    """Of the data."""


def pack_tensor(tensor: Tensor, codec: str) -> tuple[bytes, Tensor]:
    """Serialise a tensor as a head and uint8 data ``(size_bytes,)``, in memory of its own.

    It is float32, float64 or int64, has at most four axes, and may be on any device. Float32 data
    is sent as `codec` says, a key of `CODECS`; ``fp32`` is exact. LinkError if it is another
    tensor, or has values that do not fit the codec.
    """
    if tensor.dtype not in AS_IT_IS or tensor.ndim > 4:
        accepted = "accepted: float32, float64 or int64 with at most 4"
        raise LinkError(f"tensor of {tensor.dtype} with {tensor.ndim} axes: {accepted}")
    values = tensor.detach().cpu().contiguous()
    form: torch.dtype | str = tensor.dtype
    if codec == "fp32" or tensor.dtype != torch.float32 or not tensor.numel():
        data = _bytes_of(values).clone()
    else:
        form = codec
        try:
            parts, _ = encode({"smashed data": values.view(_rows_of(values.shape))}, codec)
        except PacketError as error:
            raise LinkError(str(error)) from None
        data = torch.cat([_bytes_of(parts[name]) for name in _parts_of(values.shape, codec)])
    kind = (TENSOR, FORMATS.index(form), tensor.requires_grad, tensor.ndim)
    axes = [*tensor.shape, *[0] * (4 - tensor.ndim)]
    return HEAD.pack(*kind, len(data), *axes), data


def pack_goodbye(reason: str) -> tuple[bytes, Tensor]:
    """Serialise why a link closes, in one character or more."""
    data = torch.frombuffer(bytearray(reason.encode()[:LONGEST_REASON_BYTES]), dtype=torch.uint8)
    return HEAD.pack(GOODBYE, 0, 0, 0, len(data), 0, 0, 0, 0), data


def read_head(head: bytes) -> Frame:
    """Read a head; LinkError if no tensor has it."""
    kind, code, wants_gradient, ndim, size, *axes = HEAD.unpack(head)
    if kind == GOODBYE and size <= LONGEST_REASON_BYTES:
        return Frame(None, (), False, size)
    if kind != TENSOR or code >= len(FORMATS) or ndim > 4 or wants_gradient > 1:
        raise LinkError(f"a frame begins with {head[:4].hex()}, which no tensor's does")
    form, shape = FORMATS[code], tuple(axes[:ndim])
    if wants_gradient and form == torch.int64:
        raise LinkError("a frame wants the gradient of whole numbers")
    parts = _parts_of(shape, form) if isinstance(form, str) else {"": Spec(form, shape)}
    if size != sum(spec.size_bytes for spec in parts.values()) or size > LARGEST_DATA_BYTES:
        raise LinkError(f"a frame claims {size} bytes for {form} of shape {shape}")
    return Frame(form, shape, bool(wants_gradient), size)


def read_tensor(frame: Frame, data: Tensor) -> Tensor:
    """Return the tensor that `data`, uint8 ``(size_bytes,)``, stands for.

    It is a leaf that requires a gradient if what was sent did. Codecs come back as float32.
    """
    if isinstance(frame.format, str):
        parts, start = {}, 0
        for name, spec in _parts_of(frame.shape, frame.format).items():
            part = data[start : start + spec.size_bytes].view(spec.dtype)
            parts[name], start = part.reshape(spec.shape), start + spec.size_bytes
        rows = {"smashed data": _rows_of(frame.shape)}
        data = decode(parts, frame.format, rows)["smashed data"]
    elif frame.format is not None:
        data = data.view(frame.format)
    return data.reshape(frame.shape).requires_grad_(frame.wants_gradient)


def read_reason(data: Tensor) -> str:
    """Return the text of a goodbye."""
    return bytes(data.numpy()).decode(errors="replace")


def _parts_of(shape: Sequence[int], codec: str) -> dict[str, Spec]:
    """Return the parts of a codec, widest dtypes first, so that each is aligned."""
    specs = layouts(["smashed data"], {"smashed data": _rows_of(shape)}, codec)
    return dict(sorted(specs.items(), key=lambda part: -part[1].dtype.itemsize))


def _rows_of(shape: Sequence[int]) -> tuple[int, int]:
    return (math.prod(shape[:-1]), shape[-1] if shape else 1)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
