"""Labelled samples as tensors: what a backbone expects of them, and their batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.checks import Bounds

CHUNK = 64
CropMode = Literal["center", "squash", "border"]
LUMA = (0.299, 0.587, 0.114)
"""Red, green and blue in grey (ITU-R BT.601), as Pillow has it for picture files."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs of samples that are made as they are asked for: all of them would take too much room.

    `make` gets the places of samples, ``(n,)``, and returns their inputs, ``(n, ...)``.
    """

    count: int
    make: Callable[[NDArray[np.int64]], Tensor]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, pick: slice | Tensor) -> Tensor:
        places = np.arange(self.count)
        return self.make(places[pick.cpu().numpy() if isinstance(pick, Tensor) else pick])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield the inputs of `size` samples after another, as a tensor's parts."""
        return (self[start : start + size] for start in range(0, self.count, size))


@dataclass(frozen=True, eq=False)
class Samples:
    """A shard of the data: labels int64 ``(samples,)``, inputs ``(samples, ...)``.

    Those are normalised images, or what a frozen part of the model made of them.
    """

    inputs: Tensor | Rows
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class InputSpec:
    """What a backbone expects: size, normalisation, and how a picture file is brought to it."""

    size_px: Annotated[int, Bounds(1)]
    """Of a side; images are square."""
    channels: Annotated[int, Bounds(1)]
    mean: tuple[Annotated[float, Bounds(0, 1)], ...]
    std: tuple[Annotated[float, Bounds(1e-3, 1e3)], ...]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = (
        "bicubic"
    )
    """How picture files are resized, by timm's names."""
    crop_pct: Annotated[float, Bounds(0.1, 1)] = 1.0
    """Share of the resized picture's side that is kept."""
    crop_mode: CropMode = "center"
    """``center`` cuts what is not square, ``squash`` distorts, ``border`` pads."""

    @property
    def in_memory(self) -> InputSpec:
        """How `prepared` brings images in memory to the same backbone: whole, bilinearly."""
        return replace(self, interpolation="bilinear", crop_pct=1.0, crop_mode="squash")

    def normalised(self, pixels: Tensor) -> Tensor:
        """Map values from 0 to 1, ``(samples, channels, height, width)``, to the model's scale."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std


def of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Repeat a normalisation as timm repeats the weights of a stem; one channel has the mean."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(itertools.islice(itertools.cycle(values), channels))


def prepared(images: NDArray[np.uint8], labels: NDArray[np.int64], spec: InputSpec) -> Samples:
    """Turn raw images ``(samples, height, width, channels)`` into what a backbone expects."""
    side = spec.size_px
    inputs = torch.empty(len(images), spec.channels, side, side)
    # By parts: a float takes four times the bytes of the pixel, and each step makes new ones.
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        inputs[part] = _prepared(torch.from_numpy(images[part]), spec)
    return Samples(inputs, torch.from_numpy(labels))


def _prepared(images: Tensor, spec: InputSpec) -> Tensor:
    pixels = images.permute(0, 3, 1, 2).float() / 255
    if pixels.shape[1] != spec.channels:
        if pixels.shape[1] == 3:
            pixels = (pixels * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        pixels = pixels.mean(1, keepdim=True).expand(-1, spec.channels, -1, -1)
    size = (spec.size_px, spec.size_px)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return spec.normalised(pixels)


class Batches:
    """Iterate over a shard in batches, in an order that only `generator` decides.

    A batch is inputs, labels and the teacher's logits, if any. The tensors lie in memory already: a
    DataLoader would collate them again sample by sample.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int = 0,
        generator: torch.Generator | None = None,
        teacher_logits: Tensor | None = None,
    ) -> None:
        parts = (samples.inputs, samples.labels, teacher_logits)
        self.parts = [part for part in parts if part is not None]
        self.count = len(samples)
        self.batch_size = min(batch_size or self.count, self.count)
        self.generator = generator

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self.generator is None:
            yield from zip(*(part.split(self.batch_size) for part in self.parts), strict=True)
            return
        order = torch.randperm(self.count, generator=self.generator)
        # Beside what they pick from: a device would wait for each batch's.
        orders = [order.to(getattr(part, "device", "cpu")) for part in self.parts]
        for picks in zip(*(each.split(self.batch_size) for each in orders), strict=True):
            yield tuple(part[pick] for part, pick in zip(self.parts, picks, strict=True))

    def first(self) -> tuple[Tensor, ...]:
        """Return the first samples as one batch."""
        return tuple(part[: self.batch_size] for part in self.parts)
