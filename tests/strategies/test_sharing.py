"""Unlike models share what they say of public images, or where their features lie."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig, RunConfig
from mfd_flower.data import load_federation
from mfd_flower.models.loss import Anchors
from mfd_flower.records import tensors_of
from mfd_flower.runtime.runner import run_locally
from strategies.fedproto import signs_for
from tests.harness import Trial, trial

CNN = {"backbone": "random", "arch": "small-cnn", "tune": "full"}
MIXED = [{"name": "cnn", "share": 0.5, "model": CNN}]
PUBLIC = 30


def run_of(strategy: str, rounds: int = 2, options: Any = None, **data: Any) -> RunConfig:
    return RunConfig.from_tables(
        {
            "data": {
                **{"name": "digits", "nodes": 4, "train_samples": 160, "test_samples": 100},
                **{"public_samples": PUBLIC, "validation": 0.0, **data},
            },
            "train": {"lr": 0.01, "local_epochs": 2},
            "strategy": {"name": strategy, "rounds": rounds, "options": json.dumps(options or {})},
            "profiles": json.dumps(MIXED),
        }
    )


def test_public_images_are_nobodys() -> None:
    config = DataConfig(name="digits", nodes=4, train_samples=160, test_samples=100)
    before = load_federation(config, 3)
    config = DataConfig(
        name="digits", nodes=4, train_samples=160, test_samples=100, public_samples=PUBLIC
    )
    found = load_federation(config, 3)
    held = np.concatenate([*found.shares, *found.held_out, found.test])
    assert len(found.public) == PUBLIC
    assert not {*found.public.tolist()} & {*held.tolist()}
    # Who holds what is as it was without them.
    for one, other in zip(before.shares, found.shares, strict=True):
        assert np.array_equal(one, other)
    rest = DataConfig(name="digits", train_samples=0, test_samples=100, public_samples=PUBLIC)
    dealt = load_federation(rest, 3)
    total = sum(map(len, [*dealt.shares, *dealt.held_out])) + PUBLIC + 100
    assert total == len(dealt.images.labels)


@pytest.mark.parametrize(("codec", "width"), [("fp32", 4), ("fp16", 2)])
def test_what_travels_is_what_is_said(codec: str, width: int) -> None:
    """Classes x public samples x bytes, up each round and down in each but the first."""
    found = trial(run_of("fedmd", 3, {"codec": codec}))
    sizes = PUBLIC * 10 * width
    for number in range(3):
        pairs = found.grid.of("train.digest")[4 * number : 4 * number + 4]
        for request, reply in pairs:
            assert reply is not None
            down, up = (
                [array.numpy().nbytes for array in record.values()]
                for record in (
                    next(iter(request.content.array_records.values()), {}),
                    reply.content.array_records["said"],
                )
            )
            assert down == ([] if number == 0 else [sizes])
            assert up == [sizes]


def test_the_mean_is_of_all_that_was_said() -> None:
    found = trial(run_of("fedmd", 2, {"codec": "fp32"}))
    first = [r for _, r in found.grid.of("train.digest")[:4]]
    said = [tensors_of(r.content.array_records["said"])["said"] for r in first if r]
    request, _ = found.grid.of("train.digest")[4]
    (told,) = tensors_of(request.content.array_records["said"]).values()
    torch.testing.assert_close(told, torch.stack(said).mean(0))


def said_last(found: Trial) -> torch.Tensor:
    """Return the probabilities that each node said in the last round, a row each."""
    replies = [reply for _, reply in found.grid.of("train.digest")[-4:]]
    said = [tensors_of(r.content.array_records["said"])["said"] for r in replies if r]
    return torch.stack([torch.softmax(each.float(), 1).flatten() for each in said])


def test_models_come_to_say_the_same() -> None:
    alike = []
    for epochs in (1, 20):
        said = said_last(trial(run_of("fedmd", 3, {"digest_epochs": epochs})))
        alike.append(float((torch.corrcoef(said).sum() - 4) / 12))
    assert alike[1] > alike[0]


@pytest.mark.parametrize("strategy", ["fedmd", "fedproto"])
def test_every_node_has_a_model_of_its_own(strategy: str) -> None:
    found = run_locally(run_of(strategy, 3))
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"] + 0.1
    sizes = {each["profile"] for each in found["node_quality"].values()}
    assert sizes == {"", "cnn"}
    # The models themselves are shown to the experimenter alone.
    last = found["points"][-1]["bytes"]
    assert 0 < last["payload"] < 60_000 < last["relay"]


def test_features_are_drawn_to_the_common_ones() -> None:
    apart = []
    for weight in (0.0, 30.0):
        found = trial(run_of("fedproto", 3, {"weight": weight}))
        last = [r for _, r in found.grid.of("train.align")[-4:]]
        means = [tensors_of(r.content.array_records["means"]) for r in last if r]
        stacked = torch.stack([m["means"] for m in means])
        there = torch.stack([m["counts"] > 0 for m in means])
        common = (stacked * there[..., None]).sum(0) / there.sum(0).clamp(min=1)[:, None]
        distance = ((stacked - common).square().mean(2) * there).sum() / there.sum()
        spread = common.square().mean()
        apart.append(float(distance / spread))
    assert apart[1] < 0.8 * apart[0]


def test_an_anchor_counts_for_its_class_alone() -> None:
    run = run_of("fedproto")
    signs = signs_for(run, 6, 3)
    assert torch.equal(signs, signs_for(run, 6, 3))
    means = torch.randn(4, 3)
    features, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 3])
    there = torch.tensor([True, False, True, False])
    expected = sum(
        ((f @ signs - means[y]) ** 2).mean()
        for f, y in zip(features, labels, strict=True)
        if there[y]
    )
    found = Anchors(means, there, signs, 2.0).distance(features, labels)
    torch.testing.assert_close(found, 2.0 * expected / 5)


@pytest.mark.parametrize(
    ("strategy", "changes", "line"),
    [
        ("fedmd", {"public_samples": 0}, "data.public_samples = 0: at least 1 for fedmd"),
        (
            "fedmd",
            {"public_samples": 99999},
            "data.public_samples = 99999: at most 1537, what 160 training samples leave of digits",
        ),
        ("fedmd", {"options": {"codec": "int4"}}, "options.codec = 'int4': accepted: fp32, fp16"),
        ("fedproto", {"options": {"directions": 0}}, "options.directions = 0: must be"),
    ],
)
def test_what_it_cannot_do_is_refused(strategy: str, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        run_locally(run_of(strategy, **changes))
