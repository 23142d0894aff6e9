"""Fused updates are the sum of the products, whatever their ranks."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.sharing import averaged_apart, fuse_lora

RANKS = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def drawn(ranks: list[int], out: int, inner: int, peft: bool) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(sum(ranks) + out)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    pairs = [(draw(out, rank), draw(rank, inner)) for rank in ranks]
    return [(b, a) for a, b in pairs] if peft else pairs


def product(pair: Any, peft: bool) -> Tensor:
    a, b = pair
    return b @ a if peft else a @ b


@given(RANKS, st.integers(5, 12), st.integers(5, 12), st.booleans(), st.data())
@settings(deadline=None)
def test_the_sum_of_products_is_exact(
    ranks: list[int], out: int, inner: int, peft: bool, data: st.DataObject
) -> None:
    size = len(ranks)
    weights = data.draw(st.lists(st.floats(-2, 2), min_size=size, max_size=size))
    pairs = drawn(ranks, out, inner, peft)
    expected = sum(w * product(p, peft) for w, p in zip(weights, pairs, strict=True))
    fused = fuse_lora(pairs, weights)
    assert fused.error == 0
    torch.testing.assert_close(product(fused, peft), expected, atol=1e-12, rtol=0)
    assert min(fused[0].shape) == min(sum(ranks), *fused[0].shape)


@given(RANKS, st.integers(1, 8), st.booleans())
@settings(deadline=None)
def test_to_a_rank_it_is_the_nearest(ranks: list[int], rank: int, peft: bool) -> None:
    pairs, weights = drawn(ranks, 9, 7, peft), [1 / len(ranks)] * len(ranks)
    exact = product(fuse_lora(pairs, weights), peft)
    near = fuse_lora(pairs, weights, rank)
    values = torch.linalg.svdvals(exact)
    assert near.error == pytest.approx(float(values[rank:].norm() / values.norm()), abs=1e-9)
    distance = (product(near, peft) - exact).norm() / exact.norm()
    assert near.error == pytest.approx(float(distance), abs=1e-9)
    assert near[1].shape[0 if not peft else 1] <= rank


def test_one_node_alone_is_itself() -> None:
    ((a, b),) = pairs = drawn([3], 8, 6, False)
    fused = fuse_lora(pairs, [1.0])
    assert torch.equal(fused[0], a)
    assert torch.equal(fused[1], b)


def test_averaging_factors_apart_is_biased() -> None:
    """Of opposite updates the sum is nothing; of equal ones nothing is wrong."""
    ((a, b),) = drawn([2], 8, 6, True)
    assert averaged_apart([(a, b), (a, b)], [0.5, 0.5]) == pytest.approx(0, abs=1e-12)
    others = drawn([2, 2, 2], 8, 6, True)
    assert averaged_apart(others, [1 / 3] * 3) > 0.3
    exact = product(fuse_lora(others, [1 / 3] * 3), True)
    apart = sum(b for _, b in others) / 3 @ (sum(a for a, _ in others) / 3)
    found = averaged_apart(others, [1 / 3] * 3)
    assert found == pytest.approx(float((apart - exact).norm() / exact.norm()))


def test_half_precision_comes_back_as_it_came() -> None:
    pairs = [(a.half(), b.half()) for a, b in drawn([2, 3], 8, 6, False)]
    fused = fuse_lora(pairs, [0.5, 0.5], 2)
    assert fused[0].dtype == fused[1].dtype == torch.float16


@pytest.mark.parametrize(
    ("shapes", "weights", "rank", "line"),
    [
        ([], [], None, "must be one for each of 0 pairs"),
        ([((4, 2), (2, 5))], [1.0, 1.0], None, "weights: 2, must be one for each of 1 pairs"),
        ([((4, 2), (3, 5))], [1.0], None, "must be two matrices that share a dimension"),
        ([((4, 2, 1), (2, 5))], [1.0], None, "must be two matrices"),
        ([((4, 2), (2, 5)), ((4, 2), (2, 6))], [1.0, 1.0], None, "of the same outer shape"),
        ([((4, 2), (2, 5))], [float("nan")], None, "weights = [nan]: must be finite"),
        ([((4, 2), (2, 5))], [1.0], 0, "rank = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_fused_is_one_line(
    shapes: list[Any], weights: list[float], rank: int | None, line: str
) -> None:
    pairs = [(torch.ones(a), torch.ones(b)) for a, b in shapes]
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        fuse_lora(pairs, weights, rank)
    assert "\n" not in str(caught.value)
