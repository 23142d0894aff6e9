"""What a run leaves in a folder beside its numbers: models, and checkpoints while it goes on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of, spec_of
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.node_state import RUN_NAME
from mfd_flower.packets import version_digest
from mfd_flower.records import tensors_of
from mfd_flower.runtime.curve import Measured, settings_behind

CHECKPOINTS, MODELS = "checkpoints", "models"
"""Folders in that of the results."""


@dataclass(frozen=True)
class RunFiles:
    """The files of one run."""

    folder: Path
    name: str
    """How they begin: letters, digits, dots and hyphens; no other run in the folder has it."""
    checkpoint_every: int = 0
    """Steps from one checkpoint to the next; 0 keeps none."""
    resume: bool = False
    """Go on from the last checkpoint, if there is one."""

    def __post_init__(self) -> None:
        # Folders of this name are made and removed.
        RUN_NAME.check("name", self.name)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of all runs."""
        return self.folder / CHECKPOINTS

    @property
    def own_checkpoints(self) -> Path:
        """Folder of this run's, which is there from its begin until what it measured is saved."""
        return self.checkpoints / self.name

    def drop_checkpoints(self) -> None:
        """Remove them: what the run measured is saved."""
        shutil.rmtree(self.own_checkpoints, ignore_errors=True)
        with contextlib.suppress(OSError):  # Those of other runs may be beside them.
            self.checkpoints.rmdir()

    def write_models(
        self, run: RunConfig, kind: str, measured: Measured, made: Mapping[str, Any]
    ) -> dict[str, str]:
        """Write models as ``-final`` or ``-best``; returns their paths in the folder, by name."""
        classes = federation_of(run).images.classes
        metrics = {k: v for k, v in measured.point.items() if k != "wall_seconds"}
        paths = {}
        for which, record in measured.models.items():
            tensors, own = tensors_of(record), settings_behind(run, which)
            told = {**made, "metrics": metrics, "version": version_digest(tensors)}
            model = TrainedModel.of(tensors, own.model, classes, run.seed, told, spec_of(own))
            part = f"-{which}" if which else ""
            paths[which] = f"{MODELS}/{self.name}{part}-{kind}.safetensors"
            model.save(self.folder / paths[which])
        return paths
