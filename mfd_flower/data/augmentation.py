"""timm's training transforms on images in memory, drawn by a seed alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.data.samples import InputSpec, of_channels, prepared

CROP_FLIP = "crop-flip"
process_generators = threading.RLock()
"""Held while the process's generators serve one augmentation, and by who else draws from them.
Lightning's Trainer reads them and puts them back as a fit begins, so that where images are
augmented each fit has to hold it throughout."""


class Augmentation:
    """Another view of each image whenever it is asked for.

    Parameters
    ----------
    name
        ``crop-flip``, a random part and side, or that and a policy by timm's `auto_augment`:
        ``rand-m9-mstd0.5`` (RandAugment, arXiv 1909.13719), ``augmix-m3-w3``, ``v0``, ``3a`` ...
    seed
        Decides all views together with the order in which they are asked for.

    Raises
    ------
    ConfigError
        If timm knows no such policy.
    """

    def __init__(self, name: str, spec: InputSpec, seed: int) -> None:
        from timm.data import create_transform

        self._spec, self._seed, self._calls = spec, seed, 0
        try:
            self._transform = create_transform(
                spec.size_px,
                is_training=True,
                auto_augment=None if name == CROP_FLIP else name,
                color_jitter=None,  # type: ignore[arg-type]
                interpolation=spec.interpolation,
                mean=of_channels(spec.mean, 3),
                normalize=False,
            )
        except (AssertionError, KeyError, ValueError) as error:
            said = f"accepted: {CROP_FLIP}, or a policy of timm's as rand-m9-mstd0.5, v0, augmix-m3"
            raise ConfigError("train.augmentation", name, said) from error

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Map ``(n, height, width, channels)`` to what a backbone takes, ``(n, ...)``."""
        self._calls += 1
        with _drawn_by([self._seed, self._calls]):
            views = [self._transform(_coloured(image)).permute(1, 2, 0) for image in images]
        labels = np.zeros(len(views), np.int64)
        return prepared(torch.stack(views).numpy(), labels, self._spec).inputs[:]


def _coloured(image: NDArray[np.uint8]) -> Image.Image:
    # Policies change colours, and want three.
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")


@contextmanager
def _drawn_by(seeds: list[int]) -> Iterator[None]:
    """Seed the three generators of the process that timm draws from, and put them back after."""
    first, second, third = np.random.SeedSequence(seeds).generate_state(3).tolist()
    with process_generators:
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            random.seed(first)
            np.random.seed(second)
            torch.manual_seed(third)
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            torch.set_rng_state(kept[2])
