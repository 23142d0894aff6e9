"""The data of a run as its backbone takes it."""

from __future__ import annotations

from mfd_flower.config import RunConfig
from mfd_flower.data.federation import Federation, load_federation
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.build import input_spec


def federation_of(run: RunConfig) -> Federation:
    """Return who holds what in a run, picture files decoded at the size of its backbone."""
    return load_federation(run.data, run.seed, input_spec(load_backbone(run.model, run.seed)))
