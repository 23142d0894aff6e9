"""Sums over samples that any number of nodes add up in any order; on the wire, and on disk.

Of whole-number features x with labels y, ``G = sum x x^T`` and ``Q = sum x y^T``: what recursive
least squares needs (Fani et al. 2024, *Fed3R*, arXiv 2406.01116, section 3; He et al. 2024, *AFL*,
arXiv 2405.16240). They are the same to the last bit whoever came first.

On the wire stand Q, class by class, and then of G's upper triangle what is left when each class's
``q q^T / n`` is taken away, the scatter around the class means: small numbers, in a `rice` code.
G's last row is not sent, since Q's rows add up to it. Equal sums have equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import ConfigError
from mfd_flower.files import write_bytes
from mfd_flower.packets import PacketError, rice

FORMAT = "mfd-flower sums 1"

EXACT = 2**53
"""From here on a float64 skips whole numbers, and a sum of them depends on its order."""


class SumsError(ValueError):
    """Sums that are not those of features."""


@dataclass(frozen=True)
class Sums:
    """What is known of samples: whole numbers, of which those of disjoint samples add up."""

    gram: NDArray[np.int64]
    """``(d + 1, d + 1)``, sum of x x^T over samples; the last feature is 1."""
    cross: NDArray[np.int64]
    """``(d + 1, classes)``, sum of x over the samples of each class; its last row counts them."""

    @classmethod
    def of(cls, features: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Self:
        """Sum over samples; ``(n, d)`` whole numbers and ``(n,)`` classes.

        Raises
        ------
        SumsError
            If a sum could be 2^53 or more.
        """
        largest = int(np.abs(features).max(initial=1))
        if len(features) * largest**2 >= EXACT:
            said = f"{len(features)} samples of features up to {largest}: a sum may pass 2^53"
            raise SumsError(said)
        # Products and sums of whole numbers below 2^53 are exact in float64, and BLAS is fast.
        rows = np.ones((len(features), features.shape[1] + 1))
        rows[:, :-1] = features
        hot = np.zeros((len(features), classes))
        hot[np.arange(len(features)), labels] = 1
        return cls((rows.T @ rows).astype(np.int64), (rows.T @ hot).astype(np.int64))

    @classmethod
    def nothing(cls, features: int, classes: int) -> Self:
        """Return the sums over no samples."""
        return cls(
            np.zeros((features + 1, features + 1), np.int64),
            np.zeros((features + 1, classes), np.int64),
        )

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both; they must have no sample in common."""
        self._same_shape(other)
        total = Sums(self.gram + other.gram, self.cross + other.cross)
        if max(np.abs(total.gram).max(), np.abs(total.cross).max()) >= EXACT:
            raise SumsError(f"{total.samples} samples: a sum passes 2^53")
        return total

    def without(self, part: Sums) -> Sums:
        """Return the sums as if the samples of `part` had never been added, to the last bit.

        Raises
        ------
        SumsError
            If they cannot be in these sums: fewer than no samples would be left of a class, or less
            than nothing of a feature's squares.
        """
        self._same_shape(part)
        rest = Sums(self.gram - part.gram, self.cross - part.cross)
        if (rest.counts < 0).any() or (rest.gram.diagonal() < 0).any():
            raise SumsError(f"{part.samples} samples: they are not among these {self.samples}")
        return rest

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.gram[-1, -1])

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each class, ``(classes,)``."""
        return self.cross[-1]

    @property
    def cells(self) -> NDArray[np.int64]:
        """All that the sums are, each number once: class sums, then G's upper triangle."""
        inner = self.gram[:-1, :-1]
        return np.concatenate([self.cross.T.ravel(), inner[_triangle(len(inner))]])

    @classmethod
    def from_cells(cls, cells: NDArray[np.int64], features: int, classes: int) -> Self:
        """Inverse of `cells`; `PacketError` if no samples have such sums."""
        known = (features + 1) * classes
        cross = _read_cross(cells[:known], features, classes)
        if (np.abs(cells.astype(float)) >= EXACT).any():
            raise PacketError("sums: a sum passes 2^53")
        return cls(_full(cells[known:], cross), cross)

    def to_bytes(self) -> bytes:
        """Return the one text that stands for these sums on the wire."""
        left = self.gram[:-1, :-1] - _predicted(self.cross)
        return rice.encode(np.concatenate([self.cross.T.ravel(), left[_triangle(len(left))]]))

    @classmethod
    def from_bytes(cls, data: bytes, features: int, classes: int) -> Self:
        """Read sums of so many features and classes; `PacketError` if they are not that."""
        triangle = _triangle(features)
        cells = (features + 1) * classes
        numbers = rice.decode(data, cells + len(triangle[0]))
        cross = _read_cross(numbers[:cells], features, classes)
        left = numbers[cells:]
        try:
            expected = _predicted(cross)[triangle]
        except SumsError as error:
            raise PacketError(f"sums: {error}") from None
        if (np.abs(left.astype(float)) >= EXACT).any() or (np.abs(expected + left) >= EXACT).any():
            raise PacketError("sums: a sum passes 2^53")
        return cls(_full(expected + left, cross), cross)

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write int64 safetensors; what the sums are `about` is JSON in the metadata."""
        told = {"format": FORMAT, "about": dump_json(dict(about))}
        write_bytes(path, save({"gram": self.gram, "cross": self.cross}, told))

    @classmethod
    def load(cls, path: Path) -> tuple[Self, dict[str, Any]]:
        """Read sums of unknown origin, and what they are about; ConfigError says what is wrong."""

        def refused(said: str) -> ConfigError:
            return ConfigError("SUMS", str(path), said)

        try:
            with safe_open(path, "np") as file:
                told = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (OSError, SafetensorError) as error:
            raise refused(f"not a safetensors file ({str(error).splitlines()[0]})") from error
        if told.get("format") != FORMAT or found.keys() != {"gram", "cross"}:
            raise refused(f"accepted: gram and cross, format {FORMAT}")
        gram, cross = found["gram"], found["cross"]
        if any(part.dtype != np.int64 or part.ndim != 2 for part in (gram, cross)):
            raise refused("gram and cross: accepted are matrices of int64")
        if gram.shape != (len(cross), len(cross)) or cross.size == 0:
            raise refused(f"gram {gram.shape} does not belong to cross {cross.shape}")
        if not np.array_equal(gram, gram.T):
            raise refused("gram is not symmetric")
        if not np.array_equal(gram[-1], cross.sum(1)) or (cross[-1] < 0).any():
            raise refused("gram's last row and cross count different samples")
        if max(np.abs(part.astype(float)).max() for part in (gram, cross)) >= EXACT:
            raise refused("a sum passes 2^53")
        return cls(gram, cross), load_json("about", told.get("about", "{}"))

    def _same_shape(self, other: Sums) -> None:
        ours, theirs = (self.gram.shape, self.cross.shape), (other.gram.shape, other.cross.shape)
        if ours != theirs:
            raise SumsError(f"sums of {theirs[0][0] - 1} features and {theirs[1][1]} classes: "
                            f"these have {ours[0][0] - 1} and {ours[1][1]}")  # fmt: skip


def cross_to_bytes(cross: NDArray[np.int64]) -> bytes:
    """Return the one text that stands for sums over classes ``(d + 1, classes)`` on the wire."""
    return rice.encode(cross.T.ravel())


def cross_from_bytes(data: bytes, features: int, classes: int) -> NDArray[np.int64]:
    """Inverse of `cross_to_bytes`; `PacketError` if it is not that."""
    return _read_cross(rice.decode(data, (features + 1) * classes), features, classes)


def _read_cross(numbers: NDArray[np.int64], features: int, classes: int) -> NDArray[np.int64]:
    cross = np.ascontiguousarray(numbers.reshape(classes, features + 1).T)
    if (cross[-1] < 0).any():
        raise PacketError(f"sums: {int(cross[-1].min())} samples of a class")
    if (np.abs(cross.astype(float)) >= EXACT).any():
        raise PacketError("sums: a sum passes 2^53")
    if cross[:, cross[-1] == 0].any():
        raise PacketError("sums: a class without samples has some")
    return cross


def _full(triangle: NDArray[np.int64], cross: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return G of its upper triangle, without the last row, and of Q."""
    gram = np.zeros((len(cross), len(cross)), np.int64)
    gram[_triangle(len(cross) - 1)] = triangle
    gram[:-1, :-1] += np.triu(gram[:-1, :-1], 1).T
    gram[-1] = gram[:, -1] = cross.sum(1)
    return gram


def _triangle(features: int) -> tuple[NDArray[np.intp], ...]:
    return np.triu_indices(features)


def _predicted(cross: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what of G follows from class means: the sum of ``q q^T / n``, rounded."""
    expected = np.zeros((len(cross) - 1, len(cross) - 1))
    # Cell by cell in one order: a product of matrices would be rounded as BLAS likes.
    for column in cross.T.astype(float):
        if column[-1]:
            expected += np.multiply.outer(column[:-1], column[:-1]) / column[-1]
    if (np.abs(expected) >= EXACT).any():
        raise SumsError("a sum passes 2^53")
    return np.rint(expected).astype(np.int64)
