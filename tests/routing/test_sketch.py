"""Sketches of features: their divergence is that of Gaussians, and any text is one of them."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as kl_of_torch

from mfd_flower.routing.sketch import (
    CHARS,
    DIRECTIONS,
    SIZE_BYTES,
    STEP,
    STEPS_AN_OCTAVE,
    Sketch,
    gaussian_divergence,
)

K = DIRECTIONS
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, samples: int = 40) -> NDArray[np.float64]:
    """Features ``(n, k)`` whose means, spreads and correlations the seed decides."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(samples, K)) @ rng.normal(size=(K, K)) / math.sqrt(K)
    return mixed * rng.uniform(0.3, 2, K) + rng.uniform(-1, 1, K)


gaussians = seeds.map(lambda seed: Sketch.of(drawn(seed)))
texts = st.binary(min_size=SIZE_BYTES, max_size=SIZE_BYTES).map(
    lambda data: base64.urlsafe_b64encode(data).decode()
)


def normal(sketch: Sketch) -> MultivariateNormal:
    return MultivariateNormal(
        torch.from_numpy(sketch.mean), scale_tril=torch.from_numpy(sketch.factor)
    )


def moved(sketch: Sketch, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Sketch:
    """The sketch of the same features behind an affine map."""
    factor = matrix @ sketch.factor
    return Sketch(matrix @ sketch.mean + shift, np.linalg.cholesky(factor @ factor.T))


def test_by_hand() -> None:
    """Variances 1 and 4 in one direction, means 1 apart: (1/4 + 1/4 - 1) / 2 + ln 2 nats."""
    wide = np.eye(K)
    wide[0, 0], mean = 2.0, np.zeros(K)
    mean[0] = 1.0
    found = gaussian_divergence(Sketch(np.zeros(K), np.eye(K)), Sketch(mean, wide))
    assert found == pytest.approx(math.log(2) - 0.25)


@given(p=gaussians, q=gaussians)
def test_it_is_the_divergence_that_torch_has(p: Sketch, q: Sketch) -> None:
    expected = float(kl_of_torch(normal(p), normal(q)))
    assert gaussian_divergence(p, q) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(p=gaussians, q=gaussians)
def test_it_is_zero_for_equal_ones_alone(p: Sketch, q: Sketch) -> None:
    assert gaussian_divergence(p, p) == pytest.approx(0, abs=1e-9)
    apart = np.abs(p.mean - q.mean).max() + np.abs(p.factor - q.factor).max()
    assert (gaussian_divergence(p, q) > 1e-6) == (apart > 1e-3)


@given(p=gaussians, q=gaussians, seed=seeds)
def test_no_affine_map_of_both_changes_it(p: Sketch, q: Sketch, seed: int) -> None:
    """A divergence of distributions does not know the coordinates."""
    rng = np.random.default_rng(seed)
    matrix, shift = np.eye(K) + 0.1 * rng.normal(size=(K, K)), rng.normal(size=K)
    before, after = (
        gaussian_divergence(*pair)
        for pair in ((p, q), (moved(p, matrix, shift), moved(q, matrix, shift)))
    )
    assert after == pytest.approx(before, rel=1e-6, abs=1e-9)


@given(seed=seeds, samples=st.integers(1, 400))
def test_a_sketch_has_mean_and_covariance_of_its_features(seed: int, samples: int) -> None:
    """With n samples and a pseudo-sample of variance 1: (n cov + 1) / (n + 1)."""
    rows = drawn(seed, samples)
    found = Sketch.of(rows)
    expected = (samples * np.cov(rows.T, bias=True) + np.eye(K)) / (samples + 1)
    np.testing.assert_allclose(found.factor @ found.factor.T, expected, atol=1e-9)
    np.testing.assert_allclose(found.mean, rows.mean(0))


@given(seed=seeds)
def test_the_order_of_samples_does_not_matter(seed: int) -> None:
    rows = drawn(seed)
    mixed = rows[np.random.default_rng(seed).permutation(len(rows))]
    assert Sketch.of(rows).to_text() == Sketch.of(mixed).to_text()


@given(sketch=gaussians)
def test_a_text_rounds_each_number_by_half_a_step(sketch: Sketch) -> None:
    text = sketch.to_text()
    assert len(text) == CHARS == 36
    found = Sketch.from_text(text)
    assert np.abs(found.mean - sketch.mean).max() <= STEP / 2 + 1e-12
    ratio = np.log2(np.diag(found.factor) / np.diag(sketch.factor))
    assert np.abs(ratio).max() <= 0.5 / STEPS_AN_OCTAVE + 1e-12
    below = np.tril_indices(K, -1)
    assert np.abs(found.factor - sketch.factor)[below].max() <= STEP / 2 + 1e-12
    assert gaussian_divergence(sketch, found) < 0.05


@given(text=texts)
def test_a_text_has_one_sketch_and_a_sketch_one_text(text: str) -> None:
    assert Sketch.from_text(text).to_text() == text


@given(p=texts, q=texts)
def test_any_two_texts_compare_in_finite_numbers(p: str, q: str) -> None:
    found = gaussian_divergence(Sketch.from_text(p), Sketch.from_text(q))
    assert 0 - 1e-9 <= found < math.inf


def test_the_worst_text_compares_in_finite_numbers() -> None:
    """The smallest diagonal with the largest numbers below it, in both signs."""
    for sign in (-128, 127):
        narrow = np.array([127] * K + [-128] * K + [sign] * (SIZE_BYTES - 2 * K), np.int8)
        wide = np.array([-128] * K + [127] * (SIZE_BYTES - K), np.int8)
        p, q = (
            Sketch.from_text(base64.urlsafe_b64encode(each.tobytes()).decode())
            for each in (wide, narrow)
        )
        assert math.isfinite(gaussian_divergence(p, q))
        assert math.isfinite(gaussian_divergence(q, p))
