"""A model of any architecture as a node sees it: what is frozen, what is tuned, and a head.

Nodes train, send and keep what `requires_grad` marks. What stands in front of the first of it, the
frozen stage, is computed once for each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mfd_flower.config import ModelConfig
from mfd_flower.models.devices import autocast
from mfd_flower.models.trunk import Trunk


class PlainBackbone(nn.Module):
    """A network that maps images to features ``(batch, num_features)``."""

    channels: int
    size_px: int
    num_features: int

    def __init__(self, network: nn.Module, channels: int, size_px: int, num_features: int) -> None:
        super().__init__()
        self.network = network
        self.channels, self.size_px, self.num_features = channels, size_px, num_features

    @property
    def pretrained_cfg(self) -> Mapping[str, Any]:
        """What timm knows of the network's weights, if it is timm's."""
        return getattr(self.network, "pretrained_cfg", None) or {}

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, size_px, size_px)`` to features."""
        return self.network(images)


Backbone = Trunk | PlainBackbone


class TunedModel(nn.Module):
    """A backbone that maps images to features, and a linear head on them.

    The backbone is not copied, and frozen unless the caller says otherwise afterwards. `generator`
    draws the head; without it torch's global one does.
    """

    backbone: Backbone
    dropout = 0.0
    """Probability of dropping a tuned component in training."""
    levels: tuple[int, ...] = ()
    """Behind how many blocks the head reads; empty where it reads the last features alone."""
    dropout_generator: torch.Generator | None = None

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.built_from: tuple[ModelConfig, int, int] | None = None
        """Settings, number of classes and seed, if `build_model` made the model."""

    def draw_head(self, features: int, num_classes: int, generator: torch.Generator | None) -> None:
        """Make a head for so many features."""
        self.head = nn.Linear(features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """Set training mode of the tuned parts; frozen weights stay in eval mode.

        So do batch norms: their running statistics are no tunables, and would stay behind on the
        node that made them.
        """
        super().train(mode)
        self.backbone.train(mode and all(p.requires_grad for p in self.backbone.parameters()))
        for module in self.backbone.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``."""
        return self.forward_from("images", images)

    def frozen_stage(self) -> str:
        """Name the last point in front of which nothing trains, so that its inputs can be kept.

        ``images`` if anything but the head trains, else ``features``.
        """
        trains = any(p.requires_grad for p in self.backbone.parameters())
        return "images" if trains else "features"

    @torch.no_grad()
    def frozen_outputs(self, stage: str, images: Tensor) -> Tensor:
        """Map images to what `forward_from` takes at `stage`, without gradients."""
        return images if stage == "images" else self.features_from("images", images)

    def forward_from(self, stage: str, inputs: Tensor) -> Tensor:
        """Classify from `stage` on; logits ``(batch, num_classes)``."""
        return self.classify(self.features_from(stage, inputs))

    def features_from(self, stage: str, inputs: Tensor) -> Tensor:
        """Return the inputs of the head from `stage` on, ``(batch, dim)``."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Map the head's inputs to logits, in the head's own precision whatever the rest has.

        A solved head takes differences of numbers much larger than they: eight bits lose them.
        """
        with autocast(features.device, "32"):
            return self.head(features.to(self.head.weight.dtype))
