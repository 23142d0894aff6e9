"""A run's model and its test set as picture files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """Give a run's settings and its final model."""
    tables: dict[str, Any] = {
        "data": {"name": "digits", "nodes": 3, "train_samples": 90, "test_samples": 40},
        "model": {"tune": "prompts", "prompts": 2},
        "strategy": {"name": "fedavg", "rounds": 2},
    }
    run, folder = RunConfig.from_tables(tables), tmp_path_factory.mktemp("run")
    record = run_locally(run, files=RunFiles(folder, "a"))
    return run, folder / record["model"]


@pytest.fixture(scope="module")
def pictures(kept: tuple[RunConfig, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the test set as files, named by their order, at the model's size."""
    run, _ = kept
    federation, folder = load_federation(run.data, run.seed), tmp_path_factory.mktemp("pictures")
    for place, index in enumerate(federation.test):
        digit = Image.fromarray(federation.images.images[index, ..., 0])
        # As `prepared` resizes, which PIL's own filter does not to the bit.
        pixels = torch.from_numpy(np.array(digit))[None, None].float() / 255
        large = torch.nn.functional.interpolate(pixels, (28, 28), mode="bilinear", antialias=True)
        values = (large[0, 0] * 255).round().byte().numpy()
        Image.fromarray(values).save(folder / f"{place:03}.png")
    return folder
