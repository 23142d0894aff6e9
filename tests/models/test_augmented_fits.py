"""Nodes train on augmented images where the settings say so: by the seed alone, and billed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mfd_flower import node as node_module
from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.data.augmentation import Augmentation, process_generators
from mfd_flower.data.samples import InputSpec
from mfd_flower.models import build_model
from mfd_flower.node import Node, initial_tunables
from mfd_flower.run_checks import check_run
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy

MakeRun = Callable[..., RunConfig]
AUGMENTED = {"augmentation": "rand-m9-mstd0.5", "local_epochs": 2}


@pytest.mark.parametrize("strategy", ["fedavg", "mfd-walk"])
def test_an_augmented_run_does_not_depend_on_threads(make_run: MakeRun, strategy: str) -> None:
    def losses(workers: int, **train: object) -> list[float]:
        run = make_run(strategy, rounds=2, train={"local_epochs": 2, **train})
        return [point["loss"] for point in run_locally(run, workers=workers)["points"]]

    augmented = losses(1, augmentation="rand-m9-mstd0.5")
    assert losses(4, augmentation="rand-m9-mstd0.5") == augmented
    assert losses(1)[1:] != augmented[1:]


@pytest.mark.parametrize("tune", ["head", "prompts", "full"])
def test_views_are_drawn_anew_by_the_step(make_run: MakeRun, tune: str) -> None:
    train = {**AUGMENTED, "shuffle": False, "augmentation": "crop-flip"}
    run = make_run("fedavg", train=train, model={"tune": tune})
    node, start = Node(run, 0), initial_tunables(run)
    first, again, other = (node.fit(start, step)[0] for step in (1, 1, 2))
    assert all(first[name].equal(again[name]) for name in first)
    assert any(not first[name].equal(other[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in first.values())


def test_the_frozen_part_is_computed_again_and_counted(make_run: MakeRun) -> None:
    """Each view passes the whole backbone, where a kept feature passes the head alone."""
    plain, augmented = (
        Node(make_run("fedavg", train=train, model={"tune": "head"}), 0)
        for train in ({"local_epochs": 2}, AUGMENTED)
    )
    assert augmented.fit_flops() > 100 * plain.fit_flops()
    start = initial_tunables(plain.run)
    for node in (plain, augmented):
        assert node.fit(start, 1)[1].flops == pytest.approx(node.fit_flops())


def test_evaluation_sees_the_images_themselves(make_run: MakeRun) -> None:
    plain, augmented = (
        Node(make_run("fedavg", train=train), 0) for train in ({}, {"augmentation": "crop-flip"})
    )
    start = initial_tunables(plain.run)
    assert plain.evaluate(start) == augmented.evaluate(start)
    torch.testing.assert_close(plain.samples.inputs[:], augmented.samples.inputs[:])


@pytest.mark.parametrize(
    ("strategy", "train", "line"),
    [
        ("fedavg", {"augmentation": "flip"}, "train.augmentation = 'flip': accepted: crop-flip"),
        ("hfsl", AUGMENTED, "train.augmentation = 'rand-m9-mstd0.5': accepted by hfsl: none"),
        ("centralised", AUGMENTED, "train.augmentation = .*: accepted by centralised: none"),
        ("fedavg", {**AUGMENTED, "distillation": 1.0}, "train.augmentation = .*: none with"),
    ],
)
def test_what_cannot_be_augmented_is_refused(
    make_run: MakeRun, strategy: str, train: dict[str, object], line: str
) -> None:
    options = {"clusters": 1, "cluster_size": 3} if strategy == "hfsl" else {}

    def check() -> None:
        run = make_run(strategy, train=train, options=options)
        build_strategy(run)
        check_run(run)

    with pytest.raises(ConfigError, match=line):
        check()


@pytest.mark.parametrize("tune", ["prompts", "lora"])
def test_a_seed_decides_the_views_while_models_are_made(tune: str) -> None:
    """torch, timm and peft draw weights from the process's generators, though all are replaced."""
    spec = InputSpec(28, 1, (0.5,), (0.5,))
    images = np.random.default_rng(0).integers(256, size=(40, 28, 28, 1), dtype=np.uint8)
    config = ModelConfig(tune=tune)  # type: ignore[arg-type]
    alone, stop = Augmentation("crop-flip", spec, 3)(images), threading.Event()

    def build() -> None:
        while not stop.is_set():
            build_model(config, 10, 0)

    builder = threading.Thread(target=build)
    builder.start()
    try:
        found = [Augmentation("crop-flip", spec, 3)(images) for _ in range(8)]
    finally:
        stop.set()
        builder.join()
    assert all(views.equal(alone) for views in found)


def test_every_fit_of_an_augmented_run_has_the_generators(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's that forges its data too: Lightning puts them back where they were as it began."""
    held: list[bool] = []
    true = node_module.fit

    def watched(*given: Any, **keywords: Any) -> Any:
        held.append(process_generators._is_owned())  # type: ignore[attr-defined]
        return true(*given, **keywords)

    monkeypatch.setattr(node_module, "fit", watched)
    for train, threat in ((AUGMENTED, {"kind": "label-flip", "share": 1.0}), (AUGMENTED, {})):
        run = make_run(train=train, threat=threat)
        Node(run, 0).fit(initial_tunables(run), 1)
    assert held == [True, True]
