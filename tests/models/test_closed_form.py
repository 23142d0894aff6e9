"""Heads from sums: the same sums by any way, and heads that the data itself would give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge

from mfd_flower.models.closed_form import (
    PENALTIES,
    Head,
    class_means,
    discriminant,
    fedcof,
    ridge,
    solve,
)
from mfd_flower.models.sums import EXACT, Sums, SumsError

CLASSES = 4
Data = tuple[NDArray[np.int64], NDArray[np.int64]]


def samples(
    seed: int,
    count: int = 120,
    features: int = 12,
    shares: object = None,
    spread: float = 1.0,
) -> Data:
    """Return whole-number features of overlapping classes, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, count, p=shares)  # type: ignore[arg-type]
    centres = rng.normal(size=(CLASSES, features))
    noise = spread * rng.normal(size=(count, features))
    found = 10 * (centres[labels] + noise + rng.normal(size=features))
    return np.rint(found).astype(np.int64), labels


def nearest_mean(sums: Sums) -> Head:
    return class_means(sums.cross)


def covariances_for_free(sums: Sums) -> Head:
    return fedcof([sums.cross])


@given(st.integers(0, 2**31), st.lists(st.integers(0, 5), min_size=60, max_size=60))
def test_whoever_holds_what_and_in_whatever_order_the_sums_are_the_same(
    seed: int, holders: list[int]
) -> None:
    x, y = samples(seed, len(holders))
    whole = Sums.of(x, y, CLASSES)
    order = np.random.default_rng(seed).permutation(6)
    total = Sums.nothing(x.shape[1], CLASSES)
    for node in order:
        mine = np.array(holders) == node
        total = total + Sums.of(x[mine], y[mine], CLASSES)
    assert total.to_bytes() == whole.to_bytes()
    assert total.samples == len(x)
    assert total.counts.tolist() == np.bincount(y, minlength=CLASSES).tolist()
    for head in (ridge, discriminant, nearest_mean):
        np.testing.assert_array_equal(head(total).weight, head(whole).weight)


@given(st.integers(0, 2**31), st.integers(1, 59))
def test_what_is_taken_out_was_never_there(seed: int, count: int) -> None:
    x, y = samples(seed, 60)
    part = Sums.of(x[:count], y[:count], CLASSES)
    without = Sums.of(x[count:], y[count:], CLASSES)
    assert (Sums.of(x, y, CLASSES).without(part)).to_bytes() == without.to_bytes()


@pytest.mark.parametrize("share", [1e-3, 0.3])
def test_ridge_is_that_of_the_data_itself(share: float) -> None:
    x, y = samples(0)
    scatter = ((x - x.mean(0)) ** 2).sum() / x.shape[1]
    oracle = Ridge(alpha=share * scatter).fit(x, np.eye(CLASSES)[y])
    np.testing.assert_allclose(
        ridge(Sums.of(x, y, CLASSES), [share]).logits(x), oracle.predict(x), atol=1e-9
    )


def test_the_penalty_is_the_one_with_the_least_generalised_cross_validation_error() -> None:
    """The error from the data: residuals over what is left of the freedom, by the hat matrix."""
    x, y = samples(1, 40, 30)
    hot, centred = np.eye(CLASSES)[y], x - x.mean(0)
    scatter = (centred**2).sum() / x.shape[1]

    def error(share: float) -> float:
        inner = centred.T @ centred + share * scatter * np.eye(x.shape[1])
        hat = centred @ np.linalg.solve(inner, centred.T) + 1 / len(x)
        residual = ((hot - hat @ hot) ** 2).sum()
        return float(len(x) * residual / (len(x) - np.trace(hat)) ** 2)

    best = min(PENALTIES, key=error)
    assert PENALTIES[0] < best < PENALTIES[-1]
    sums = Sums.of(x, y, CLASSES)
    np.testing.assert_array_equal(ridge(sums).weight, ridge(sums, [best]).weight)


def macro(head: Head, x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    found = head.logits(x).argmax(1)
    return float(np.mean([(found[y == c] == c).mean() for c in np.unique(y)]))


@pytest.mark.parametrize("twice", [0, 1, 5])
@pytest.mark.parametrize("count", [20, 50, 60, 80])
@pytest.mark.parametrize("head_of", [ridge, discriminant])
def test_samples_that_are_there_twice_do_not_choose_the_penalty(
    head_of: Callable[[Sums], Head], count: int, twice: int
) -> None:
    """Of 60 features: a fit through all samples, copies among them, would be worth little."""
    lost = []
    for seed in range(8):
        x, y = samples(seed, count + 1000, features=60, spread=4.0)
        few = np.r_[:count, :twice]
        sums = Sums.of(x[few], y[few], CLASSES)
        heads = [ridge(sums, [share]) for share in PENALTIES[::2]]
        rights = [
            (head.logits(x[count:]).argmax(1) == y[count:]).mean()
            for head in (*heads, head_of(sums))
        ]
        lost.append(max(rights[:-1]) - rights[-1])
    assert np.mean(lost) < 0.06


def test_rare_classes_are_found_by_equal_priors() -> None:
    found = []
    for seed in range(5):
        x, y = samples(seed, 1000, shares=(0.85, 0.05, 0.05, 0.05))
        sums = Sums.of(x[::2], y[::2], CLASSES)
        found.append([macro(s(sums), x[1::2], y[1::2]) for s in (discriminant, ridge)])
    even, uneven = np.mean(found, 0)
    assert even > uneven + 0.05


def test_a_discriminant_decides_by_gaussians_with_one_covariance() -> None:
    """The penalty of the regression on the same data is a floor under the scatter in classes."""
    x, y = samples(6, 60, 30)
    centred = x - x.mean(0)
    share = next(s for s in PENALTIES if np.array_equal(*same_weights(x, y, s)))
    means = np.stack([x[y == c].mean(0) for c in range(CLASSES)])
    within = (x - means[y]).T @ (x - means[y]) + share * (centred**2).sum() / 30 * np.eye(30)
    density = [multivariate_normal(mean, within / len(x)).logpdf(x) for mean in means]
    logits = discriminant(Sums.of(x, y, CLASSES)).logits(x)
    expected = np.stack(density, 1)
    np.testing.assert_allclose(
        logits - logits.mean(1, keepdims=True),
        expected - expected.mean(1, keepdims=True),
        atol=1e-7,
    )


def same_weights(
    x: NDArray[np.int64], y: NDArray[np.int64], share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sums = Sums.of(x, y, CLASSES)
    return ridge(sums, [share]).weight, ridge(sums).weight


@pytest.mark.parametrize("head_of", [ridge, discriminant, nearest_mean, covariances_for_free])
def test_a_class_without_samples_is_never_chosen(head_of: object) -> None:
    x, y = samples(2)
    kept = y != 3
    head = head_of(Sums.of(x[kept], y[kept], CLASSES))  # type: ignore[operator]
    assert np.isfinite(head.logits(x)).all()
    assert not (head.logits(10 * x).argmax(1) == 3).any()


@pytest.mark.parametrize("head_of", [ridge, discriminant, nearest_mean, covariances_for_free])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_samples_give_a_finite_head(head_of: object, count: int) -> None:
    x, y = samples(3, count)
    head = head_of(Sums.of(x, y, CLASSES))  # type: ignore[operator]
    assert np.isfinite(head.weight).all()
    assert np.isfinite(head.bias).all()


def test_sums_that_would_not_be_exact_are_refused() -> None:
    large = np.full((2, 1), 2**26)
    labels = np.zeros(2, np.int64)
    assert Sums.of(large[:1], labels[:1], 2).gram[0, 0] == 2**52
    with pytest.raises(SumsError, match=r"2 samples of features up to 67108864"):
        Sums.of(large, labels, 2)
    one = Sums.of(large[:1], labels[:1], 2)
    with pytest.raises(SumsError, match="a sum passes"):
        _ = one + one
    assert 2 * one.gram[0, 0] == EXACT
    with pytest.raises(SumsError, match="sums of 3 features and 2 classes: these have 1 and 2"):
        _ = one + Sums.nothing(3, 2)


@pytest.mark.parametrize("kind", ["ridge", "discriminant"])
def test_a_solved_head_decides_as_it_did_and_its_logits_are_likely(kind: str) -> None:
    """Neither so flat that all classes seem likely, nor so sharp that a mistake costs the world."""
    x, y = samples(4, 2000)
    sums = Sums.of(x[::2], y[::2], CLASSES)
    plain, head = {"ridge": ridge, "discriminant": discriminant}[kind](sums), solve(kind, sums)  # type: ignore[arg-type]
    np.testing.assert_array_equal(head.logits(x).argmax(1), plain.logits(x).argmax(1))

    def log_loss(factor: float) -> float:
        logits = factor * head.logits(x[1::2])
        return float(-log_softmax(logits, axis=1)[np.arange(len(x) // 2), y[1::2]].mean())

    least = min(log_loss(factor) for factor in np.geomspace(0.1, 10, 41))
    assert log_loss(1.0) < least + 0.05
    assert log_loss(0.1) > least + 0.5
    assert log_loss(10.0) > least + 0.05


def test_means_of_many_small_nodes_tell_the_covariance() -> None:
    """The more nodes, the nearer FedCOF's head is to the one from the samples themselves."""
    far = []
    for nodes in (20, 2000):
        x, y = samples(5, 4 * nodes)
        owner = np.arange(len(x)) % nodes
        parts = [Sums.of(x[owner == n], y[owner == n], CLASSES).cross for n in range(nodes)]
        found = fedcof(parts, 0.0).weight
        scatter = sum(
            (part - part.mean(0)).T @ (part - part.mean(0))
            for part in (x[y == label].astype(float) for label in range(CLASSES))
        )
        gram = scatter + np.outer(x.sum(0), x.sum(0)) / len(x)
        wanted = np.linalg.solve(
            gram, np.stack([x[y == label].sum(0) for label in range(CLASSES)]).T
        ).T
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        far.append(float(np.abs(found - wanted).max()))
    assert far[1] < 0.1 < far[0]
