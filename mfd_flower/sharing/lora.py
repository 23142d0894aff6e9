r"""Low-rank updates of several nodes as one: the sum of their products, never a mean of factors.

An update is :math:`\Delta W = A B` (Hu et al. 2022, arXiv 2106.09685), and that of all nodes is
:math:`\sum_i w_i A_i B_i`. Stacked factors are exactly that (Wang et al. 2024, *FLoRA*, arXiv
2409.05976, section 3.2). To average `A` and `B` apart gives
:math:`(\sum_i w_i A_i) (\sum_i w_i B_i)`, which has the products of different nodes in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
SHAPES = "two matrices that share a dimension, of the same outer shape in all pairs"


class Fused(tuple[Tensor, Tensor]):
    """Factors ``A, B`` of a fused update."""

    error: float
    """Frobenius norm of what a rank left out, over that of the whole update; 0 without one."""

    @classmethod
    def of(cls, a: Tensor, b: Tensor, error: float = 0.0) -> Self:
        """Return factors with what they leave out."""
        made = cls((a, b))
        made.error = error
        return made


def fuse_lora(pairs: Sequence[Pair], weights: Sequence[float], rank: int | None = None) -> Fused:
    """Return the factors of the weighted sum of updates.

    Parameters
    ----------
    pairs
        Factors ``(A, B)`` of an update each: ``(out, r)`` and ``(r, in)``, whose product is
        ``A B``; or as peft has them ``(r, in)`` and ``(out, r)``, of ``B A``. The rank is the
        smaller of the dimensions that fit. Ranks may differ.
    weights
        Of each update in the sum, finite.
    rank
        Of the result; without it all ranks together, which is exact. With it the result is the
        nearest matrix of that rank (Eckart and Young 1936), and its `error` says how near.

    Returns
    -------
    Fused
        ``A, B``, shaped as the pairs are.

    Raises
    ------
    ValueError
        If there is no pair, a shape or weight is none of these, or the rank is below 1.
    """
    turned, factors = _as_products(pairs, weights)
    left = torch.cat([w * a for (a, _), w in zip(factors, weights, strict=True)], dim=1)
    right = torch.cat([b for _, b in factors], dim=0)
    error = 0.0
    if rank is not None:
        if rank < 1:
            raise ValueError(f"rank = {rank}: must be at least 1")
        left, right, error = _nearest(left, right, rank)
    return Fused.of(right, left, error) if turned else Fused.of(left, right, error)


def averaged_apart(pairs: Sequence[Pair], weights: Sequence[float]) -> float:
    """Return how far from the sum of products the product of averaged factors is, relative to it.

    Ranks must be equal. `weights` are taken as they are: of averages they add up to 1.
    """
    _, factors = _as_products(pairs, weights)
    if len({a.shape for a, _ in factors}) > 1:
        raise ValueError("pairs: averaged apart they must have one rank")
    exact = sum(
        (w * (a @ b) for (a, b), w in zip(factors, weights, strict=True)),
        torch.zeros(()).to(factors[0][0]),
    )
    a, b = (
        torch.stack([w * pair[i] for pair, w in zip(factors, weights, strict=True)]).sum(0)
        for i in (0, 1)
    )
    return float((a @ b - exact).norm() / exact.norm())


def _as_products(pairs: Sequence[Pair], weights: Sequence[float]) -> tuple[bool, list[Pair]]:
    """Return whether pairs are shaped as peft's, and all of them as ``(out, r), (r, in)``."""
    if not pairs or len(pairs) != len(weights):
        raise ValueError(f"weights: {len(weights)}, must be one for each of {len(pairs)} pairs")
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights = {list(weights)}: must be finite")
    turned = {_is_turned(*pair) for pair in pairs}
    found = [(b, a) if True in turned else (a, b) for a, b in pairs]
    outer = {(a.shape[0], b.shape[1]) for a, b in found}
    if len(turned) > 1 or len(outer) > 1 or any(a.shape[1] != b.shape[0] for a, b in found):
        shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in pairs]
        raise ValueError(f"pairs = {shapes}: must be {SHAPES}")
    return True in turned, found


def _is_turned(a: Tensor, b: Tensor) -> bool:
    """Tell whether an update is ``B A``: the rank is the smaller of the dimensions that fit."""
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"pairs = {(tuple(a.shape), tuple(b.shape))}: must be {SHAPES}")
    ranks = {False: (a.shape[1], b.shape[0]), True: (a.shape[0], b.shape[1])}
    fits = {turned: one for turned, (one, other) in ranks.items() if one == other}
    if not fits:
        raise ValueError(f"pairs = {(tuple(a.shape), tuple(b.shape))}: must be {SHAPES}")
    return min(fits, key=lambda turned: fits[turned])


def _nearest(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return factors of the nearest matrix of a rank, without the matrix itself."""
    (left_basis, left_core), (right_basis, right_core) = (
        torch.linalg.qr(each.double()) for each in (left, right.T)
    )
    u, values, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    whole, kept = values.norm(), min(rank, len(values))
    error = float(values[kept:].norm() / whole) if whole > 0 else 0.0
    roots = values[:kept].sqrt()
    a = (left_basis @ u[:, :kept]) * roots
    b = roots[:, None] * (v[:kept] @ right_basis.T)
    return a.to(left), b.to(right), error
