"""The test on data: honest sums of other classes pass it, sums of wrong labels do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mfd_flower.adversary.on_sums import mirrored
from mfd_flower.models.sums import Sums
from mfd_flower.walk.judging import loss_verdict

FEATURES, CLASSES = 12, 4
Shard = tuple[NDArray[np.int64], NDArray[np.int64]]


def shard(rng: np.random.Generator, counts: list[int]) -> Shard:
    """Return samples of classes that overlap a little, as many of each as `counts` says."""
    centres = np.random.default_rng(7).normal(size=(CLASSES, FEATURES))
    y = np.repeat(np.arange(CLASSES), counts)
    x = np.clip(np.rint(1.2 * centres[y] + 1.5 * rng.normal(size=(len(y), FEATURES))), -7, 7)
    return x.astype(np.int64), y


def sums(of: Shard) -> Sums:
    return Sums.of(*of, CLASSES)


def flipped(of: Shard) -> Sums:
    return Sums.of(of[0], CLASSES - 1 - of[1], CLASSES)


@pytest.mark.parametrize("head", ["ridge", "discriminant"])
@pytest.mark.parametrize("before", [[0, 0, 0, 0], [200, 200, 200, 200]])
def test_wrong_labels_and_signs_are_refused(head: str, before: list[int]) -> None:
    rng = np.random.default_rng(1)
    parent, own, given_ = (shard(rng, c) for c in (before, [30] * 4, [40] * 4))
    assert loss_verdict(head, sums(parent), sums(given_), *own).accepted  # type: ignore[arg-type]
    for lie in (flipped(given_), mirrored(sums(given_), 1.0, rng)):
        verdict = loss_verdict(head, sums(parent), lie, *own)  # type: ignore[arg-type]
        assert not verdict.accepted
        assert verdict.reason in ("loss", "accuracy")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 300))
def test_a_class_that_nobody_has_seen_is_no_fault(seed: int, before: int) -> None:
    """One class a node: what is added has none of the receiver's, and none of the parent's."""
    rng = np.random.default_rng(seed)
    parent, own = shard(rng, [before, 0, 0, 0]), shard(rng, [0, 60, 0, 0])
    assert loss_verdict("ridge", sums(parent), sums(shard(rng, [0, 0, 90, 0])), *own).accepted


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_nor_are_many_samples_of_another_class_beside_few(seed: int) -> None:
    """They put the others lower, which is what a regression should do."""
    rng = np.random.default_rng(seed)
    parent, own = shard(rng, [60, 60, 60, 0]), shard(rng, [80, 0, 0, 0])
    assert loss_verdict("ridge", sums(parent), sums(shard(rng, [20, 0, 0, 300])), *own).accepted


def test_a_receiver_with_a_single_sample_refuses_nobody() -> None:
    rng = np.random.default_rng(2)
    own = shard(rng, [1, 0, 0, 0])
    given_ = shard(rng, [9] * 4)
    assert loss_verdict("ridge", Sums.nothing(FEATURES, CLASSES), flipped(given_), *own).accepted
