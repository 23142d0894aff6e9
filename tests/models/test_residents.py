"""What is frozen is computed once for each node of a federation, however many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from mfd_flower.config import RunConfig
from mfd_flower.models import PromptedViT, residents
from mfd_flower.models.features import BATCH
from mfd_flower.models.residents import model_for, shard
from mfd_flower.node import Node

NODES = 140


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often the frozen part runs on so many images."""
    runs: Counter[int] = Counter()
    true = PromptedViT.frozen_outputs

    def counting(self: PromptedViT, stage: str, images: object) -> object:
        runs[len(images)] += 1  # type: ignore[arg-type]
        return true(self, stage, images)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptedViT, "frozen_outputs", counting)
    residents._kept.cache_clear()
    return runs


def test_as_many_shards_are_kept_as_there_are_nodes(
    make_run: Callable[..., RunConfig], computed: Counter[int]
) -> None:
    data = {"nodes": NODES, "train_samples": NODES, "test_samples": 30}
    run, later = (make_run(data=data, train={"lr": lr}) for lr in (0.1, 0.2))
    for each in (run, run, later):
        assert sum(len(Node(each, index).samples) for index in range(NODES)) == NODES
        assert len(shard(each, "test")) == 30
    assert computed == {BATCH: NODES + 1}


def test_another_federation_takes_the_place_of_the_last(
    make_run: Callable[..., RunConfig], computed: Counter[int]
) -> None:
    first, second = (make_run(seed=seed) for seed in (0, 1))
    for run in (first, second, first):
        shard(run, "test")
    assert computed == {BATCH: 3 * 2}


def test_a_thread_has_one_model_of_a_kind(make_run: Callable[..., RunConfig]) -> None:
    run, other = make_run(), make_run(model={"prompts": 3})
    assert model_for(run) is model_for(make_run(train={"lr": 0.5}))
    assert model_for(run) is not model_for(other)
    for prompts in range(1, 1 + residents.KEPT_MODELS):
        model_for(make_run(model={"prompts": prompts + 10}))
    assert residents._models.build.cache_info().currsize == residents.KEPT_MODELS
