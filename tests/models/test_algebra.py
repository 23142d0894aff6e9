"""Sums of any samples have no fault; each way of making sums up has one, and it is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mfd_flower.adversary import on_sums
from mfd_flower.models.algebra import difference, fault
from mfd_flower.models.rounded import Rounding, Scale
from mfd_flower.models.sums import Sums

CLASSES = 3


@st.composite
def samples(draw: st.DrawFn, largest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw any whole numbers in bounds, the ends among them, and any labels."""
    count, features = draw(st.integers(0, 12)), draw(st.integers(1, 8))
    ends = st.sampled_from([-largest, largest, 0, 1])
    cells = st.one_of(ends, st.integers(-largest, largest))
    x = draw(arrays(np.int64, (count, features), elements=cells, fill=ends))
    return x, draw(arrays(np.int64, count, elements=st.integers(0, CLASSES - 1)))


@given(st.data(), st.integers(2, 16))
def test_sums_of_any_samples_have_no_fault(data: st.DataObject, bits: int) -> None:
    rounding = Rounding(bits=bits)
    x, y = data.draw(samples(rounding.largest))
    assert fault(Sums.of(x, y, CLASSES), rounding) == ""


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 400),
    bits=st.integers(2, 10),
    clip=st.sampled_from([0.1, 1.5, 3.0]),
    projection=st.sampled_from([0, 5, 19]),
    norm=st.sampled_from([0.0, 0.3, 1.0]),
    spread=st.sampled_from([0.01, 1.0, 1e4]),
)
def test_nor_have_rounded_features_of_any_spread(
    seed: int, count: int, bits: int, clip: float, projection: int, norm: float, spread: float
) -> None:
    """With any bits, clip, projection and norm; and what is added to a parent has none either."""
    rng, features = np.random.default_rng(seed), 20
    rounding = Rounding(clip, bits, projection, norm)
    signs = rng.choice([-1.0, 1.0], (features, projection)) / np.sqrt(features)
    scale = Scale(np.zeros(features), np.ones(features), signs if projection else None, rounding)
    # Few directions, so that most of the scatter's eigenvalues are 0 but for rounding.
    few = rng.normal(size=(count, 2)) @ rng.normal(size=(2, features)) * spread
    y = rng.integers(0, CLASSES, count)
    whole = scale.rounded((few + 3 * y[:, None]).astype(np.float32))
    first, rest = (Sums.of(whole[part], y[part], CLASSES) for part in (y == 0, y != 0))
    assert fault(difference(first + rest, first), rounding) == ""
    assert fault(first + rest, rounding) == ""


@pytest.mark.parametrize("count", [1, 96, 10_000])
@pytest.mark.parametrize("features", [1, 96, 300])
def test_nor_have_many_samples_of_many_features(count: int, features: int) -> None:
    """The scatter of equal samples is nothing: all that is left of it is rounding."""
    rng, rounding = np.random.default_rng(count), Rounding(bits=12)
    x = rng.integers(-rounding.largest, rounding.largest + 1, (CLASSES, features))
    y = rng.integers(0, CLASSES, count)
    assert fault(Sums.of(x[y], y, CLASSES), rounding) == ""


FEATURES, ROUNDING = 30, Rounding(bits=4)


def honest(seed: int = 0, count: int = 60) -> Sums:
    """Return sums of classes that lie apart, of small numbers."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 1.5
    x = np.clip(np.rint(centres[y] + rng.normal(size=(count, FEATURES))), -7, 7)
    return Sums.of(x.astype(np.int64), y, CLASSES)


def with_(inner: NDArray[np.int64] | None = None, cross: NDArray[np.int64] | None = None) -> Sums:
    """Return honest sums with another G or Q."""
    own = honest()
    cross = own.cross if cross is None else cross
    gram = own.gram.copy()
    gram[:-1, :-1] = own.gram[:-1, :-1] if inner is None else inner
    gram[-1] = gram[:, -1] = cross.sum(1)
    return Sums(gram, cross)


def changed(place: tuple[int, int], by: int) -> Sums:
    """Return honest sums with one number of G changed, and its mirror image."""
    inner = honest().gram[:-1, :-1].copy()
    for one, other in {place, place[::-1]}:
        inner[one, other] += by
    return with_(inner)


OWN = honest()
SQUARE = int(OWN.gram[0, 0])
MADE_UP = {
    "counts: -": difference(honest(1, 5), honest(2, 60)),
    "counts: a class without": with_(
        cross=OWN.cross * (np.arange(FEATURES + 1) < FEATURES)[:, None]
    ),
    "bounds: feature": with_(cross=OWN.cross * np.array([[9]] * FEATURES + [[1]])),
    "bounds: squares": changed((0, 0), 60 * 49 - SQUARE + 2),
    "whole numbers: squares": changed((0, 0), -SQUARE),
    "whole numbers: feature": changed((3, 3), 1),
    "products": changed((0, 1), 2 * SQUARE + 2 * int(OWN.gram[1, 1])),
    "scatter": changed((0, 1), int((SQUARE * OWN.gram[1, 1]) ** 0.5 - abs(OWN.gram[0, 1])) - 3),
}


@pytest.mark.parametrize("said", MADE_UP)
def test_what_is_made_up_is_named_by_the_first_fact_against_it(said: str) -> None:
    assert fault(OWN, ROUNDING) == ""
    assert fault(MADE_UP[said], ROUNDING).startswith(said)


def test_fewer_samples_than_the_scatter_needs_are_named() -> None:
    """Squares of 60 samples, said to be of five: a scatter of 30 directions."""
    counts = np.array([2, 2, 1])
    cross = np.concatenate([np.zeros((FEATURES, CLASSES), np.int64), counts[None]])
    inner = OWN.gram[:-1, :-1].copy()
    inner[np.diag_indices(FEATURES)] += inner.diagonal() % 2
    found = fault(with_(inner, cross), Rounding(bits=8))
    assert found.startswith("rank: the scatter has 30 directions, 5 samples of 3 classes have 2")


def test_vectors_longer_than_the_norm_allows_are_named() -> None:
    rounding = Rounding(norm=0.5)
    assert fault(OWN, rounding).startswith("bounds: squared lengths add up to ")


LIES = {
    "sign-flip": (on_sums.mirrored, 3.0, ("bounds", "whole", "scatter")),
    "scale": (on_sums.stretched, 2.0, ("bounds", "whole", "scatter")),
    "noise": (on_sums.noisy, 0.1, ("bounds", "whole", "products", "scatter")),
}


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(sorted(LIES)))
def test_attacks_on_sums_cannot_be_sums(seed: int, kind: str) -> None:
    change, factor, names = LIES[kind]
    made = change(honest(seed % 1000), factor, np.random.default_rng(seed))
    assert fault(made, ROUNDING).split(":")[0].split()[0] in names


@given(seed=st.integers(0, 2**31), factor=st.sampled_from([1.0, 2.0, 5.0]))
def test_what_algebra_cannot_see_is_left_to_the_data(seed: int, factor: float) -> None:
    """Images turned to their opposite, and samples that count several times, could be real."""
    rng = np.random.default_rng(seed)
    for change, times in ((on_sums.mirrored, 1.0), (on_sums.repeated, factor)):
        assert fault(change(honest(seed % 1000), times, rng), ROUNDING) == ""


@given(
    seed=st.integers(0, 2**31),
    factor=st.floats(0.1, 50.0),
    change=st.sampled_from(
        [on_sums.repeated, on_sums.mirrored, on_sums.stretched, on_sums.noisy, on_sums.nothing]
    ),
)
def test_every_reader_can_read_what_an_attacker_makes(
    seed: int, factor: float, change: on_sums.Change
) -> None:
    rng = np.random.default_rng(seed)
    own = Sums.of(rng.integers(-7, 8, (9, 4)), rng.integers(0, 2, 9), CLASSES)
    made = change(own, factor, rng)
    again = Sums.from_bytes(made.to_bytes(), 4, CLASSES)
    np.testing.assert_array_equal(again.cells, made.cells)
