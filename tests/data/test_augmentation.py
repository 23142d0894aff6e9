"""Augmented images are timm's, and depend on their seed alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.data.augmentation import Augmentation
from mfd_flower.data.samples import InputSpec

SPEC = InputSpec(32, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
GREY = InputSpec(28, 1, (0.5,), (0.5,))
NAMES = ["crop-flip", "rand-m9-mstd0.5", "augmix-m3-w3", "v0", "3a"]
IMAGES = np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", [SPEC, GREY], ids=["colour", "grey"])
def test_a_seed_decides_every_view_whatever_threads_do(name: str, spec: InputSpec) -> None:
    images = IMAGES[..., : spec.channels]

    def views(seed: int) -> Tensor:
        augment = Augmentation(name, spec, seed)
        return torch.stack([augment(images) for _ in range(3)])

    alone = [views(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(views, range(4)))
    assert all(map(torch.equal, alone, together))
    assert alone[0].shape == (3, 6, spec.channels, spec.size_px, spec.size_px)
    first, second, third = alone[0]
    assert not first.equal(second)
    assert not second.equal(third)
    assert not alone[0].equal(alone[1])


@pytest.mark.parametrize("name", NAMES)
def test_generators_of_the_process_are_left_as_they_were(name: str) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), np.random.random(), float(torch.rand(1))

    def seed() -> None:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    seed()
    expected = drawn()
    seed()
    Augmentation(name, SPEC, 1)(IMAGES)
    assert drawn() == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_one_of_timms(name: str) -> None:
    """With the process's generators seeded alike, timm alone makes the same."""
    seeds = np.random.SeedSequence([3, 1]).generate_state(3).tolist()
    theirs = create_transform(
        32,
        is_training=True,
        auto_augment=None if name == "crop-flip" else name,
        color_jitter=None,
        interpolation="bicubic",
        mean=SPEC.mean,
        std=SPEC.std,
    )
    ours = Augmentation(name, SPEC, 3)(IMAGES)
    for generator, seed in zip(
        (random.seed, np.random.seed, torch.manual_seed), seeds, strict=True
    ):
        generator(seed)
    for view, image in zip(ours, IMAGES, strict=True):
        assert view.equal(theirs(Image.fromarray(image)))


@pytest.mark.parametrize("name", ["flip", "rand-z9", "v9"])
def test_unknown_policies_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^train\.augmentation = .*accepted: crop-flip, or"):
        Augmentation(name, SPEC, 0)
