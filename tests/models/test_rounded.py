"""Rounded features: the same for a sample in any company, and heads that fit the model's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import Head
from mfd_flower.models.residents import shard
from mfd_flower.models.rounded import Rounding, Scale, features_digest, head_inputs, scale_of
from mfd_flower.node import initial_tunables, loaded_model, with_head

MakeRun = Callable[..., RunConfig]
HEAD = {"tune": "head"}
PROMPTS = {"tune": "prompts", "prompts": 2}


def features(run: RunConfig) -> np.ndarray:
    return head_inputs(run, loaded_model(run, initial_tunables(run)), shard(run, 0))


@pytest.mark.parametrize("projection", [0, 24])
def test_a_sample_is_rounded_the_same_in_any_company(make_run: MakeRun, projection: int) -> None:
    run = make_run(data={"train_samples": 150}, model=HEAD)
    scale, x = scale_of(run, Rounding(projection=projection)), features(run)
    whole = scale.rounded(x)
    assert whole.shape == (len(x), projection or x.shape[1])
    for rows in (slice(1, 2), slice(7, 45), slice(None, None, -1)):
        np.testing.assert_array_equal(scale.rounded(x[rows]), whole[rows])


def test_a_feature_has_the_same_input_at_the_head_whatever_is_tuned_behind(
    make_run: MakeRun,
) -> None:
    """With prompts of no effect at the last stage, batches are padded as the store pads them."""
    for tune in (HEAD, PROMPTS, {"tune": "lora"}):
        run = make_run(model=tune)
        model, samples = loaded_model(run, initial_tunables(run)), shard(run, 0)
        whole = head_inputs(run, model, samples)
        single = replace(samples, inputs=samples.inputs[3:4], labels=samples.labels[3:4])
        np.testing.assert_array_equal(head_inputs(run, model, single), whole[3:4])
        with torch.no_grad():
            logits = model.forward_from(model.frozen_stage(), samples.inputs[:])
            head = model.head(torch.from_numpy(whole))
        torch.testing.assert_close(head, logits, atol=1e-4, rtol=1e-4)


def test_the_scale_needs_no_data(make_run: MakeRun) -> None:
    """Without the norm's weight and bias, a feature's variance over a token is 1."""
    run = make_run(model=HEAD)
    scale, x = scale_of(run, Rounding()), features(run)
    plain = (x - scale.shift) * scale.factor
    np.testing.assert_allclose((plain**2).mean(1), 1.0, atol=1e-3)
    np.testing.assert_allclose(plain.mean(1), 0.0, atol=1e-4)


@pytest.mark.parametrize("projection", [0, 24])
def test_a_head_for_rounded_features_is_one_for_the_models_own(
    make_run: MakeRun, projection: int
) -> None:
    """Up to what rounding takes: half a step of 16 bits."""
    run = make_run(model=HEAD)
    rounding = Rounding(clip=20.0, bits=16, projection=projection)
    scale, x = scale_of(run, rounding), features(run)
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(10, scale.features)) / 1000, rng.normal(size=10))
    tensors = with_head(run, initial_tunables(run), head, rounding)
    own = torch.from_numpy(x) @ tensors["head.weight"].T + tensors["head.bias"]
    np.testing.assert_allclose(own.numpy(), head.logits(scale.rounded(x)), atol=0.02)


def test_rounding_is_as_coarse_as_it_says(make_run: MakeRun) -> None:
    run = make_run(model=HEAD)
    for rounding in (Rounding(), Rounding(clip=1.5, bits=2)):
        whole = scale_of(run, rounding).rounded(features(run))
        assert np.abs(whole).max() == rounding.largest == 2 ** (rounding.bits - 1) - 1


def test_the_digest_changes_with_all_that_features_depend_on(make_run: MakeRun) -> None:
    run, prompted = make_run(model=HEAD), make_run(model=PROMPTS)
    start = initial_tunables(prompted)
    trained = {**start, "prompts.0": start["prompts.0"] + 1}
    other_head = {**start, "head.bias": start["head.bias"] + 1}
    known = [
        features_digest(run, initial_tunables(run), Rounding()),
        features_digest(run, initial_tunables(run), Rounding(bits=5)),
        features_digest(run, initial_tunables(run), Rounding(projection=8)),
        features_digest(make_run(seed=1, model=HEAD), {}, Rounding(projection=8)),
        features_digest(prompted, start, Rounding()),
        features_digest(prompted, trained, Rounding()),
    ]
    assert len(set(known)) == len(known)
    assert features_digest(prompted, other_head, Rounding()) == known[4]
    assert features_digest(make_run(seed=1, model=HEAD), {}, Rounding()) == known[0]


def test_more_directions_than_features_are_refused(make_run: MakeRun) -> None:
    model = loaded_model(run := make_run(model=HEAD), initial_tunables(make_run(model=HEAD)))
    with pytest.raises(ConfigError, match=r"options.features.projection = 96: less than 96"):
        Scale.of(model, Rounding(projection=96), run.seed)
