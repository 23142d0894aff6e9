"""A tensor as bytes between two stages: a head of fixed length, then the data.

A codec of `mfd_flower.packets.codecs` makes float32 data smaller: ``int8`` has one scale a row,
that is a token, in front of its steps. Everything else is sent as it is. A head that does not fit
together is refused before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from mfd_flower.packets.codecs import CODECS, Spec, decode, encode, layout
from mfd_flower.packets.errors import PacketError

HEAD = struct.Struct("<4BQ4I")
"""Kind, dtype, whether a gradient is wanted, axes; bytes of data; length of each axis."""
TENSOR, GOODBYE = 0, 1
DTYPES = (
    torch.float32,
    torch.float64,
    torch.int64,
    torch.bfloat16,
    torch.float16,
    torch.int8,
)
AS_THEY_ARE = DTYPES[:3]
LARGEST_DATA_BYTES = 1 << 31
LONGEST_REASON_BYTES = 1 << 12


class LinkError(RuntimeError):
    """A link that cannot go on, said in one line: who, and why."""


@dataclass(frozen=True)
class Frame:
    """A head that was read.

    Attributes
    ----------
    dtype : torch.dtype or None
        Of the data; None is a goodbye whose data is the reason as text.
    shape : tuple of int
        Of the tensor.
    wants_gradient : bool
        Whether the sender waits for the gradient of this tensor.
    size_bytes : int
        Of the data.
    """

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    wants_gradient: bool
    size_bytes: int


def pack_tensor(tensor: Tensor, codec: str) -> tuple[bytes, Tensor]:
    """Serialise a tensor.

    Parameters
    ----------
    tensor : Tensor
        Float32, float64 or int64, at most four axes; on any device.
    codec : str
        ``fp32`` is exact; ``bf16``, ``fp16`` and ``int8`` round float32 data.

    Returns
    -------
    head : bytes
        `HEAD.size` of them.
    data : Tensor
        Bytes as uint8 ``(size_bytes,)``, in memory of its own.

    Raises
    ------
    LinkError
        If it is another dtype, has more axes, or values that do not fit the codec.
    """
    if tensor.dtype not in AS_THEY_ARE or tensor.ndim > 4:
        raise LinkError(
            f"tensor of {tensor.dtype} with {tensor.ndim} axes: "
            "accepted: float32, float64 or int64 with at most 4"
        )
    values = tensor.detach().cpu().contiguous()
    if codec == "fp32" or tensor.dtype != torch.float32 or not tensor.numel():
        dtype, data = tensor.dtype, _bytes_of(values).clone()
    else:
        dtype, data = CODECS[codec], _rounded(values, codec)
    axes = [*tensor.shape, *[0] * (4 - tensor.ndim)]
    kind = (TENSOR, DTYPES.index(dtype), tensor.requires_grad, tensor.ndim)
    return HEAD.pack(*kind, len(data), *axes), data


def pack_goodbye(reason: str) -> tuple[bytes, Tensor]:
    """Serialise why a link closes."""
    text = reason.encode()[:LONGEST_REASON_BYTES]
    return HEAD.pack(GOODBYE, 0, 0, 0, len(text), 0, 0, 0, 0), _tensor_of(text)


def read_head(head: bytes) -> Frame:
    """Read a head.

    Raises
    ------
    LinkError
        If no tensor has such a head.
    """
    kind, code, wants_gradient, ndim, size, *axes = HEAD.unpack(head)
    if kind == GOODBYE and size <= LONGEST_REASON_BYTES:
        return Frame(None, (), False, size)
    if kind != TENSOR or code >= len(DTYPES) or ndim > 4 or wants_gradient > 1:
        raise LinkError(f"a frame begins with {head[:4].hex()}, which no tensor's does")
    dtype, shape = DTYPES[code], tuple(axes[:ndim])
    if wants_gradient and dtype == torch.int64:
        raise LinkError("a frame wants the gradient of whole numbers")
    implied = math.prod(shape) * dtype.itemsize
    if dtype == torch.int8:
        implied += 4 * _rows_of(shape)[0]
    if size != implied or size > LARGEST_DATA_BYTES:
        raise LinkError(f"a frame claims {size} bytes for {dtype} of shape {shape}")
    return Frame(dtype, shape, bool(wants_gradient), size)


def read_tensor(frame: Frame, data: Tensor) -> Tensor:
    """Return the tensor that `data`, uint8 ``(size_bytes,)``, stands for.

    It is a leaf that requires a gradient if what was sent did. The codecs' dtypes come back as
    float32.
    """
    tensor = data.view(frame.dtype) if frame.dtype in AS_THEY_ARE else _restored(frame, data)
    return tensor.reshape(frame.shape).requires_grad_(frame.wants_gradient)


def read_reason(data: Tensor) -> str:
    """Return the text of a goodbye."""
    return bytes(data.numpy()).decode(errors="replace")


def _rounded(values: Tensor, codec: str) -> Tensor:
    rows = values.view(_rows_of(values.shape))
    try:
        encoded, _ = encode({"": rows}, codec)
    except PacketError as error:
        raise LinkError(f"smashed data{error}") from None
    # Scales first: bytes of a float32 must lie at a multiple of four.
    return torch.cat([_bytes_of(encoded[name]) for name in sorted(encoded, reverse=True)])


def _restored(frame: Frame, data: Tensor) -> Tensor:
    codec = next(name for name, dtype in CODECS.items() if dtype == frame.dtype)
    shape = _rows_of(frame.shape)
    specs = layout("", shape, codec)
    encoded, start = {}, 0
    for name in sorted(specs, reverse=True):
        encoded[name] = _view(data, specs[name], start)
        start += specs[name].size_bytes
    return decode(encoded, codec, {"": shape})[""]


def _rows_of(shape: tuple[int, ...]) -> tuple[int, int]:
    width = shape[-1] if shape else 1
    return (math.prod(shape[:-1]), width)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _tensor_of(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0).byte()


def _view(data: Tensor, spec: Spec, start: int) -> Tensor:
    return data[start : start + spec.size_bytes].view(spec.dtype).reshape(spec.shape)
