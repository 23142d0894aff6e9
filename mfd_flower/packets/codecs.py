"""How tunables become smaller tensors for the wire, and come back.

`fp32` is exact; `bf16` and `fp16` halve the bytes; `int8` quarters them with one fp32 scale for
each output channel (row of the first axis), or one for a whole vector. What a lossy codec drops can
be kept by the sender and added before the next encoding: error feedback, after Seide et al. 2014,
*1-Bit Stochastic Gradient Descent*, section 2; then nothing is lost, only sent later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mfd_flower.checks import show
from mfd_flower.packets.errors import PacketError

CODECS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}
SCALE = ":scale"
STEPS = 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Scale of a row of zeros; smaller ones are subnormal, and dividing by them overflows."""
LARGEST_SCALE = torch.finfo(torch.float32).max / 128
"""Above it, a full step count times the scale may round to infinity."""
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


def layout(name: str, shape: Sequence[int], codec: str) -> dict[str, Spec]:
    """Return the encoded tensors that stand for one tunable of this shape."""
    specs = {name: Spec(CODECS[codec], tuple(shape))}
    if codec == "int8":
        specs[name + SCALE] = Spec(torch.float32, (_rows(shape),))
    return specs


def encode(
    tensors: Mapping[str, Tensor], codec: str, residual: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encode tunables for the wire.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Float32, at least one element each.
    codec : str
        ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    residual : mapping of str to Tensor, optional
        What earlier encodings dropped; added to the tensors first.

    Returns
    -------
    encoded : dict of str to Tensor
        In memory of its own. ``int8`` adds the scales, shape ``(rows,)``, as ``<name>:scale``.
    residual : dict of str to Tensor
        What was wanted less what a receiver decodes; what was left over for tensors that are not in
        this call is kept. Nothing for ``fp32``.

    Raises
    ------
    PacketError
        If a value is not finite or beyond the codec's range.
    """
    _check_codec(codec)
    left = dict(residual or {})
    encoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.numel():
            raise PacketError(
                f"{name}: {tensor.dtype} with {tensor.numel()} values, must be float32 with some"
            )
        before = left.pop(name, None)
        if before is not None and before.shape != tensor.shape:
            raise PacketError(
                f"residual {name}: shape {tuple(before.shape)}, not {tuple(tensor.shape)}"
            )
        tensor = tensor.detach().cpu().contiguous()
        wanted = tensor.clone() if before is None else tensor + before
        if codec == "fp32":
            encoded[name] = wanted
        elif codec == "int8":
            encoded[name], encoded[name + SCALE] = _quantise(wanted)
            left[name] = wanted
        else:
            encoded[name] = _round(wanted, CODECS[codec])
            left[name] = wanted
    try:
        check_finite(encoded)
    except PacketError as error:
        raise PacketError(f"{error}; the values do not fit {codec}") from None
    return encoded, left


def decode(
    encoded: Mapping[str, Tensor], codec: str, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Return the tunables that `encoded` stands for as float32, in memory of their own.

    Parameters
    ----------
    encoded : mapping of str to Tensor
        As `encode` returns it; of some or all of the names in `shapes`.
    codec : str
        ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    shapes : mapping of str to sequence of int
        Shape of each tunable.

    Raises
    ------
    PacketError
        If a tensor is missing, unknown, or not of the dtype and shape that codec and shape imply.
    """
    _check_codec(codec)
    names = check_encoded(encoded, codec, shapes)
    if codec == "int8":
        return {
            name: encoded[name].float().mul_(_along_rows(encoded[name + SCALE], shapes[name]))
            for name in names
        }
    return {name: encoded[name].to(torch.float32, copy=True) for name in names}


def check_encoded(
    encoded: Mapping[str, Tensor], codec: str, shapes: Mapping[str, Sequence[int]]
) -> list[str]:
    """Compare encoded tensors with what codec and shapes imply; returns the tunables' names."""
    names = tunable_names(encoded, shapes)
    specs: dict[str, Spec] = {}
    for name in names:
        specs |= layout(name, shapes[name], codec)
    if odd := specs.keys() ^ encoded.keys():
        raise PacketError(f"payload {min(odd)}: unknown, or its partner under {codec} is missing")
    for name, spec in specs.items():
        found = Spec(encoded[name].dtype, tuple(encoded[name].shape))
        if found != spec:
            raise PacketError(f"payload {name}: {_text(found)}, must be {_text(spec)}")
    return names


def check_finite(encoded: Mapping[str, Tensor]) -> None:
    """Refuse encoded tensors that decode to NaN or infinity."""
    for name, tensor in encoded.items():
        if not tensor.is_floating_point():
            continue
        low, high = (float(bound) for bound in torch.aminmax(tensor))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise PacketError(f"payload {name}: has values that are not finite")
        if name.endswith(SCALE) and not (low >= SMALLEST_SCALE and high <= LARGEST_SCALE):
            raise PacketError(
                f"payload {name}: scales from {low:g} to {high:g}, "
                f"must lie between {SMALLEST_SCALE:g} and {LARGEST_SCALE:g}"
            )


def tunable_names(keys: Mapping[str, object], shapes: Mapping[str, object]) -> list[str]:
    """Return the tunables that encoded tensors of these names belong to, sorted."""
    names = {key.removesuffix(SCALE) for key in keys}
    if unknown := names - shapes.keys():
        raise PacketError(f"payload {show(min(unknown))}: not a tunable in shapes")
    return sorted(names)


def _quantise(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return steps and scales; `wanted` becomes what they leave out."""
    rows = wanted.view(_rows(wanted.shape), -1)
    coded = torch.empty(rows.shape, dtype=torch.int8)
    scales = torch.empty(len(rows))
    count = max(1, BLOCK // rows.shape[1])
    for part, whole, scale in zip(
        rows.split(count), coded.split(count), scales.split(count), strict=True
    ):
        torch.amax(part.abs(), dim=1, out=scale)
        scale.div_(STEPS).clamp_(min=SMALLEST_SCALE)
        steps = part.div(scale[:, None]).round_()
        whole.copy_(steps)
        part.sub_(steps.mul_(scale[:, None]))
    return coded.view(wanted.shape), scales


def _round(wanted: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the nearest values in `dtype`; `wanted` becomes what they leave out."""
    coded = torch.empty(wanted.shape, dtype=dtype)
    for part, rounded in zip(
        wanted.view(-1).split(BLOCK), coded.view(-1).split(BLOCK), strict=True
    ):
        rounded.copy_(part)
        part.sub_(rounded.float())
    return coded


def _check_codec(codec: str) -> None:
    if codec not in CODECS:
        raise PacketError(f"codec = {show(codec)}: accepted: {', '.join(CODECS)}")


def _rows(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _along_rows(scale: Tensor, shape: Sequence[int]) -> Tensor:
    return scale.reshape(-1, *[1] * (len(shape) - 1)) if len(shape) > 1 else scale.reshape(())


def _text(spec: Spec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')} {spec.shape}"
