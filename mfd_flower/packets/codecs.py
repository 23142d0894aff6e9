"""How tunables become smaller tensors for the wire, and come back: one table, one entry a codec.

`fp32` is exact; `bf16` and `fp16` halve the bytes; `int8` quarters them with one fp32 scale for
each output channel (row of the first axis), or one for a whole vector. What a lossy codec drops can
be kept by the sender and added before the next encoding: error feedback, after Seide et al. 2014,
*1-Bit Stochastic Gradient Descent*, section 2; then nothing is lost, only sent later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from mfd_flower.checks import Form, show
from mfd_flower.packets.frame import PacketError

BLOCK = 1 << 16
"""Values worked on at a time, so that what one step writes is still in the cache for the next."""


@dataclass(frozen=True)
class Spec:
    """What an encoded tensor must look like."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Rounded:
    """The nearest value in another floating point format.

    Like any codec it turns one float32 tensor into parts for the wire; a part's key follows the
    tensor's name.
    """

    dtype: torch.dtype
    exact: bool = False
    """Whether what is decoded is what was encoded, bit for bit."""

    def layout(self, shape: tuple[int, ...]) -> dict[str, Spec]:
        """Return dtype and shape of each part."""
        return {"": Spec(self.dtype, shape)}

    def encode(self, wanted: Tensor) -> dict[str, Tensor]:
        """Return the parts; `wanted` becomes what they leave out, unless the codec is exact."""
        if self.exact:
            return {"": wanted}
        coded = torch.empty(wanted.shape, dtype=self.dtype)
        blocks = (tensor.view(-1).split(BLOCK) for tensor in (wanted, coded))
        for part, rounded in zip(*blocks, strict=True):
            rounded.copy_(part)
            part.sub_(rounded.float())
        return {"": coded}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Return the float32 tensor that the parts stand for; in their memory, if exact."""
        return parts[""].float()

    def check(self, parts: Mapping[str, Tensor]) -> str:
        """Return which part's values are wrong though finite, and how; empty if none are."""
        return ""


class _Steps8:
    """Eight-bit steps of one scale a row, the largest value of a row being 127 of them."""

    exact = False
    largest = 127
    smallest_scale = torch.finfo(torch.float32).tiny
    """Of a row of zeros; smaller ones are subnormal, and dividing by them overflows."""
    largest_scale = torch.finfo(torch.float32).max / 128
    """Above it, a full step count times the scale may round to infinity."""

    def layout(self, shape: tuple[int, ...]) -> dict[str, Spec]:
        return {"": Spec(torch.int8, shape), ":scale": Spec(torch.float32, (_rows(shape),))}

    def encode(self, wanted: Tensor) -> dict[str, Tensor]:
        rows = wanted.view(_rows(wanted.shape), -1)
        coded = torch.empty(rows.shape, dtype=torch.int8)
        scales = torch.empty(len(rows))
        count = max(1, BLOCK // rows.shape[1])
        blocks = (tensor.split(count) for tensor in (rows, coded, scales))
        for part, whole, scale in zip(*blocks, strict=True):
            torch.amax(part.abs(), dim=1, out=scale)
            scale.div_(self.largest).clamp_(min=self.smallest_scale)
            steps = part.div(scale[:, None]).round_()
            whole.copy_(steps)
            part.sub_(steps.mul_(scale[:, None]))
        return {"": coded.view(wanted.shape), ":scale": scales}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        along = (-1, *[1] * (len(shape) - 1)) if len(shape) > 1 else ()
        return parts[""].float().mul_(parts[":scale"].reshape(along))

    def check(self, parts: Mapping[str, Tensor]) -> str:
        low, high = (float(bound) for bound in torch.aminmax(parts[":scale"]))
        if self.smallest_scale <= low and high <= self.largest_scale:
            return ""
        bounds = f"{self.smallest_scale:g} and {self.largest_scale:g}"
        return f":scale: values from {low:g} to {high:g}, must lie between {bounds}"


class _Bytes:
    """Bytes of a code of its own, as they are."""

    exact = True

    def layout(self, shape: tuple[int, ...]) -> dict[str, Spec]:
        return {"": Spec(torch.uint8, shape)}

    def encode(self, wanted: Tensor) -> dict[str, Tensor]:
        return {"": wanted}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return parts[""]

    def check(self, parts: Mapping[str, Tensor]) -> str:
        return ""


Codec = _Rounded | _Steps8 | _Bytes
CODECS: dict[str, Codec] = {
    "fp32": _Rounded(torch.float32, exact=True),
    "bf16": _Rounded(torch.bfloat16),
    "fp16": _Rounded(torch.float16),
    "int8": _Steps8(),
}
"""For tunables, which are float32."""
BYTES = "bytes"
ALL: dict[str, Codec] = {**CODECS, BYTES: _Bytes()}
CodecName = Annotated[str, Form("|".join(CODECS), f"one of {', '.join(CODECS)}")]
AnyCodecName = Annotated[str, Form("|".join(ALL), f"one of {', '.join(ALL)}")]


def layouts(
    names: Iterable[str], shapes: Mapping[str, Sequence[int]], codec: str
) -> dict[str, Spec]:
    """Return the encoded tensors that stand for the tunables of these names."""
    coder = ALL[codec]
    return {
        f"{name}{key}": spec
        for name in names
        for key, spec in coder.layout(tuple(shapes[name])).items()
    }


def encode(
    tensors: Mapping[str, Tensor], codec: str, residual: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encode tunables for the wire.

    `tensors` are float32, or uint8 for ``bytes``, with at least one element each; `residual`, what
    earlier encodings dropped, is added to them first.

    Returns
    -------
    encoded : dict of str to Tensor
        In memory of its own, parts under ``<name><key>``.
    residual : dict of str to Tensor
        What was wanted less what a receiver decodes; what was left over for tensors that are not in
        this call is kept. Nothing for an exact codec.

    Raises
    ------
    PacketError
        If a value is not finite or beyond the codec's range.
    """
    coder = _codec(codec)
    left = dict(residual or {})
    encoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        dtype = torch.uint8 if codec == BYTES else torch.float32
        if tensor.dtype != dtype or not tensor.numel():
            found = f"{tensor.dtype} with {tensor.numel()} values"
            wanted_dtype = str(dtype).removeprefix("torch.")
            raise PacketError(f"{name}: {found}, must be {wanted_dtype} with some")
        before = left.pop(name, None)
        if before is not None and before.shape != tensor.shape:
            shapes = f"shape {tuple(before.shape)}, not {tuple(tensor.shape)}"
            raise PacketError(f"residual {name}: {shapes}")
        tensor = tensor.detach().cpu().contiguous()
        wanted = tensor.clone() if before is None else tensor + before
        encoded |= {f"{name}{key}": part for key, part in coder.encode(wanted).items()}
        if not coder.exact:
            left[name] = wanted
    try:
        check_values(encoded, codec)
    except PacketError as error:
        raise PacketError(f"{error}; the values do not fit {codec}") from None
    return encoded, left


def decode(
    encoded: Mapping[str, Tensor], codec: str, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Return the tunables, some or all of those in `shapes`, that `encoded` stands for.

    They share memory with it where the codec is exact: neither is written to afterwards.
    `PacketError` if a tensor is missing, unknown, or not of the dtype and shape that follow.
    """
    coder = _codec(codec)
    names = tunable_names(encoded, shapes)
    check_specs(encoded, implied_specs(names, encoded, shapes, codec))
    return {
        name: coder.decode(_parts(encoded, name, coder, shapes[name]), tuple(shapes[name]))
        for name in names
    }


def implied_specs(
    names: Iterable[str],
    keys: Mapping[str, object],
    shapes: Mapping[str, Sequence[int]],
    codec: str,
) -> dict[str, Spec]:
    """Return what the encoded tensors of tunables must be; `keys` are theirs and no others."""
    specs = layouts(names, shapes, codec)
    if missing := specs.keys() - keys.keys():
        raise PacketError(f"payload {min(missing)}: missing")
    if unknown := keys.keys() - specs.keys():
        raise PacketError(f"payload {show(min(unknown))}: not implied by shapes and codec")
    return specs


def check_specs(encoded: Mapping[str, Tensor], specs: Mapping[str, Spec]) -> None:
    """Compare the dtypes and shapes of encoded tensors with what they must be."""
    for name, spec in specs.items():
        found = Spec(encoded[name].dtype, tuple(encoded[name].shape))
        if found != spec:
            raise PacketError(f"payload {name}: {_text(found)}, must be {_text(spec)}")


def check_values(encoded: Mapping[str, Tensor], codec: str) -> None:
    """Refuse encoded tensors that decode to NaN or infinity; dtypes and shapes are right."""
    for key, tensor in encoded.items():
        if tensor.is_floating_point() and not all(map(math.isfinite, torch.aminmax(tensor))):
            raise PacketError(f"payload {key}: has values that are not finite")
    coder = ALL[codec]
    for key, tensor in encoded.items():
        if ":" not in key and (wrong := coder.check(_parts(encoded, key, coder, tensor.shape))):
            raise PacketError(f"payload {key}{wrong}")


def tunable_names(keys: Mapping[str, object], shapes: Mapping[str, object]) -> list[str]:
    """Return the tunables that encoded tensors of these names belong to, sorted."""
    names = {key.partition(":")[0] for key in keys}
    if unknown := names - shapes.keys():
        raise PacketError(f"payload {show(min(unknown))}: not a tunable in shapes")
    return sorted(names)


def _codec(codec: str) -> Codec:
    if codec not in ALL:
        raise PacketError(f"codec = {show(codec)}: accepted: {', '.join(ALL)}")
    return ALL[codec]


def _parts(
    encoded: Mapping[str, Tensor], name: str, codec: Codec, shape: Sequence[int]
) -> dict[str, Tensor]:
    return {key: encoded[f"{name}{key}"] for key in codec.layout(tuple(shape))}


def _rows(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _text(spec: Spec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')} {spec.shape}"
