"""Tunables of the model that travels as those of a node's own size, there and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mfd_flower.checks import ConfigError, show
from mfd_flower.config import ModelConfig
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.build import build_model
from mfd_flower.models.of_size import at_most, cut_to
from mfd_flower.models.tunables import get_tunables
from mfd_flower.scaling import Cut, size_of
from mfd_flower.scaling.sizes import SizeError
from mfd_flower.scaling.transforms import Transform


@functools.lru_cache(maxsize=16)
def resizing(travels: ModelConfig, own: ModelConfig, num_classes: int, seed: int) -> Resizing:
    """Return the way between two models of a run, see `Resizing.of`."""
    return Resizing.of(travels, own, get_tunables(build_model(own, num_classes, seed)), seed)


@dataclass(frozen=True)
class Resizing:
    """Tunables of the model that travels as those of a node's own, there and back."""

    change: Transform | Cut | None
    """How the sizes differ; None if they do not."""
    usual: Mapping[str, Tensor]
    """Of the node's own model as it was drawn: what has no counterpart begins as that."""

    @classmethod
    def of(
        cls, travels: ModelConfig, own: ModelConfig, usual: Mapping[str, Tensor], seed: int
    ) -> Self:
        """Return the way from one model to another on the same backbone.

        Raises
        ------
        ConfigError
            If they are not of one backbone and tuned alike.
        """
        for name in ("backbone", "arch", "tune", "deep", "lora_rank", "lora_alpha", "levels"):
            if getattr(own, name) != getattr(travels, name):
                accepted = f"as the model that travels has it, {show(getattr(travels, name))}"
                raise ConfigError(f"profiles.model.{name}", getattr(own, name), accepted)
        whole, part = (load_backbone(config, seed) for config in (travels, own))
        try:
            here, there = size_of(whole), size_of(part)
            if here == there:
                return cls(None, usual)
            if here.embed_dim == there.embed_dim and at_most(there, here):
                return cls(replace(cut_to(whole, there), deep=travels.deep), usual)
            return cls(Transform(here, there, travels.deep), usual)
        except SizeError as error:
            raise ConfigError("model.backbone", travels.backbone, str(error)) from error

    def there(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tunables of the node's size, of those that travel."""
        if isinstance(self.change, Cut):
            found = self.change.taken(tensors)
        else:
            found = self.change.grown(tensors) if self.change else dict(tensors)
        return {name: _joined(found[name], own) for name, own in self.usual.items()}

    def back(
        self, trained: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what travels on: `tensors`, with what the node has trained."""
        if isinstance(self.change, Cut):
            return self.change.put_back(self._shared(trained, self.change.taken(tensors)), tensors)
        grown = self.change.grown(tensors) if self.change else tensors
        shared = self._shared(trained, grown)
        return self.change.shrunk(shared) if self.change else shared

    def _shared(
        self, trained: Mapping[str, Tensor], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the rows that have a counterpart in what travels."""
        return {name: trained[name][: len(tensor)] for name, tensor in like.items()}


def _joined(tensor: Tensor, own: Tensor) -> Tensor:
    """Return a tensor with the rows that `own` has more, as prompts may be."""
    return torch.cat([tensor, own[len(tensor) :]]) if len(own) > len(tensor) else tensor
