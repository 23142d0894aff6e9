"""The first node's mask over the sums, which it takes off when all are added.

Nobody but the first node sees what one node added: the sums on their way are uniform modulo 2^w
(Bonawitz et al. 2017, section 4). Two neighbours of a node on the route, who compare what came to
it and what it sent on, do see it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from flwr.app import ConfigRecord
from torch import Tensor

from mfd_flower.checks import bounded
from mfd_flower.models.sums import Sums
from mfd_flower.packets import PacketError
from mfd_flower.packets import masked as code
from mfd_flower.walk.tours import key
from mfd_flower.walk.trait import Trait
from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class Mask(Trait):
    """Let the first node of a tour draw a mask, and take it off again."""

    width_bits: int = bounded(24, 8, code.MOST_BITS)
    """Of each number on its way; one more than the largest sum needs."""

    needs: ClassVar = ("summing",)
    excludes: ClassVar = ("admission",)

    def put_on(self, visit: Visit, own: Sums, largest: int) -> Tensor:
        """Return the first node's sums under a mask of which it keeps the secret."""
        self._check(own.samples, largest)
        secret = secrets.token_bytes(32)
        visit.keep_for_all(key("mask", visit), ConfigRecord({"secret": secret}))
        mask = code.drawn(secret, len(own.cells), self.width_bits)
        return self._encoded(code.masked(own.cells, mask, self.width_bits))

    def plus(self, numbers: Tensor, own: Sums, largest: int) -> Tensor:
        """Return masked sums and a node's own; `PacketError` if these are no such sums."""
        self._check(own.samples, largest)
        before = self.read(numbers, len(own.cells))
        return self._encoded(code.masked(own.cells, before, self.width_bits))

    def take_off(self, visit: Visit, numbers: Tensor, shape: tuple[int, int], largest: int) -> Sums:
        """Return the sums; raises `PacketError` if they did not fit under the mask."""
        record = visit.context.state.config_records.get(key("mask", visit))
        if record is None:
            raise PacketError(f"meeting = {visit.node.address}: it has no mask of this tour")
        features, classes = shape
        count = (features + 1) * classes + features * (features + 1) // 2
        mask = code.drawn(record["secret"], count, self.width_bits)  # type: ignore[arg-type]
        cells = code.unmasked(self.read(numbers, count), mask, self.width_bits)
        sums = Sums.from_cells(cells, features, classes)
        self._check(sums.samples, largest)
        return sums

    def read(self, numbers: Tensor, count: int) -> np.ndarray:
        """Return so many masked numbers; `PacketError` if these are others."""
        return code.decode(numbers.numpy().tobytes(), count, self.width_bits)

    def _check(self, samples: int, largest: int) -> None:
        needed = (samples * largest**2).bit_length() + 1
        if needed > self.width_bits:
            said = f"sums of {samples} samples need {needed}"
            raise PacketError(f"options.traits.mask.width_bits = {self.width_bits}: {said}")

    def _encoded(self, numbers: np.ndarray) -> Tensor:
        data = code.encode(numbers, self.width_bits)
        return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
