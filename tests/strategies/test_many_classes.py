"""More classes than a byte counts go through every strategy, trait and record."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from mfd_flower.config import RunConfig
from mfd_flower.data import ImageSet
from mfd_flower.data.sets import SETS, Source
from mfd_flower.models.inputs import federation_of
from tests.harness import Trial, trial
from tests.walk.walks import hops, made, options

CLASSES, EACH, NODES = 300, 4, 3
TRAITS = {"ledger": {}, "admission": {}, "codec": {"name": "int8"}, "delta": {}, "damping": {}}


@pytest.fixture(autouse=True)
def many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a set of 300 classes, each a pattern of its own."""
    patterns = np.random.default_rng(0).integers(2, size=(CLASSES, 8, 8, 1)) * 255
    images = np.repeat(patterns, EACH, axis=0).astype(np.uint8)
    labels = np.repeat(np.arange(CLASSES), EACH)
    found = ImageSet(images, labels, tuple(f"pattern {n}" for n in range(CLASSES)))
    monkeypatch.setitem(SETS, "patterns", Source(lambda path: found))


def run_on_patterns(
    make_run: Callable[..., RunConfig], strategy: str, rounds: int = 1, **tables: object
) -> Trial:
    data = {"name": "patterns", "nodes": NODES, "train_samples": 900, "test_samples": 300}
    model = {"tune": "prompts" if strategy == "hfsl" else "head"}
    return trial(make_run(strategy, rounds, data=data, model=model, **tables))


def labels_of(run: RunConfig) -> list[NDArray[np.int64]]:
    federation = federation_of(run)
    return [federation.images.labels[share] for share in federation.shares]


@pytest.mark.parametrize(
    ("policy", "traits"), [("interest", {}), ("label-balance", TRAITS)], ids=["plain", "traits"]
)
def test_a_walk_counts_and_learns_300_classes(
    make_run: Callable[..., RunConfig], policy: str, traits: dict[str, object]
) -> None:
    train = {"lr": 0.03, "local_epochs": 3, "logit_adjustment": 1.0, "keep_absent_rows": True}
    ended = run_on_patterns(make_run, "mfd-walk", 3, options=options(policy, **traits), train=train)
    shards = labels_of(ended.run)
    assert max(labels.max() for labels in shards) > 255
    packets = made(ended.grid)
    assert len(packets) == len(hops(ended.grid)) == 3 * NODES
    told, trained = np.array(packets[-1].seen), np.zeros(CLASSES)
    for packet in packets:
        trained += np.bincount(shards[int(packet.source[1:])], minlength=CLASSES)
    # Adverts may round what they announce.
    assert np.abs(told - trained).max() <= 0.1 * trained.max()
    assert ended.tensors["head.bias"].shape == (CLASSES,)
    assert ended.accuracy > 0.5


def test_centralised_uploads_labels_above_255(make_run: Callable[..., RunConfig]) -> None:
    ended = run_on_patterns(make_run, "centralised", 4, train={"lr": 0.03})
    (_, first), *_ = ended.grid.of("query.upload")
    assert first is not None
    uploaded = first.content.array_records["data"]["labels"].numpy()
    assert sorted(uploaded.tolist()) in [sorted(labels.tolist()) for labels in labels_of(ended.run)]
    assert uploaded.max() > 255
    assert ended.accuracy > 0.5


@pytest.mark.parametrize("strategy", ["fedavg", pytest.param("hfsl", marks=pytest.mark.slow)])
def test_the_others_train_300_classes(make_run: Callable[..., RunConfig], strategy: str) -> None:
    options = {"clusters": 1, "cluster_size": 3} if strategy == "hfsl" else {}
    train = {"lr": 0.03, "local_epochs": 2}
    ended = run_on_patterns(make_run, strategy, 3, options=options, train=train)
    assert ended.tensors["head.bias"].shape == (CLASSES,)
    assert ended.accuracy > 10 / CLASSES
