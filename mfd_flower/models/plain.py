"""Networks that are seen as a whole, images to features: CNNs, recurrent ones, any of timm's.

They are what an unlike node has. A head on them trains, or all of them does; prompts, LoRA, levels
and stages need the blocks of a token transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models.of_size import SIZES
from mfd_flower.models.tuned import PlainBackbone, TunedModel

WAYS = ("head", "full")
"""What can be tuned."""


class PlainModel(TunedModel):
    """Such a network with a head on its features, each sample's at mean 0 and variance 1.

    One learning rate and one scale for sums then serve networks that end in unlike ways.
    """

    backbone: PlainBackbone

    def __init__(
        self,
        backbone: PlainBackbone,
        num_classes: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(backbone)
        self.draw_head(backbone.num_features, num_classes, generator)

    def features_from(self, stage: str, inputs: Tensor) -> Tensor:
        """Return the inputs of the head from `stage` on, ``(batch, num_features)``."""
        if stage == "features":
            return inputs
        features = self.backbone(inputs)
        return F.layer_norm(features, features.shape[1:])


class SmallCNN(nn.Sequential):
    """Three convolutions, each of the first two followed by halving the side; 64 features.

    They are the largest values of the last one. Norms are of groups (Wu and He 2018, arXiv
    1803.08494): those of batches keep statistics of a node's own images, which no packet carries.
    """

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for before, width in ((channels, 16), (16, 32), (32, 64)):
            convolution = nn.Conv2d(before, width, 3, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(width // 8, width), nn.ReLU(), nn.MaxPool2d(2)]
        layers[-1] = nn.AdaptiveMaxPool2d(1)
        super().__init__(*layers, nn.Flatten())


class RowGRU(nn.Module):
    """A recurrent network that reads an image row by row; 64 features, its last state."""

    def __init__(self, channels: int, size_px: int) -> None:
        super().__init__()
        self.cells = nn.GRU(channels * size_px, 64, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to features ``(batch, 64)``."""
        _, last = self.cells(images.transpose(1, 2).flatten(2))
        return last[0]


SMALL: Mapping[str, Callable[[int, int], nn.Module]] = {
    "small-cnn": lambda channels, size_px: SmallCNN(channels),
    "small-gru": RowGRU,
}
"""Of this package, from channels and size of images; 28 px grey ones unless settings say others."""


def new_small(arch: str, config: ModelConfig) -> PlainBackbone:
    """Return one of `SMALL` with weights that torch draws."""
    channels, size_px = config.in_chans or 1, config.img_size or 28
    return PlainBackbone(SMALL[arch](channels, size_px), channels, size_px, 64)


def as_plain(model: nn.Module, field: str, value: str, img_size: int = 0) -> PlainBackbone:
    """Return a timm model without a classifier as a whole; ConfigError if it gives no features."""
    trained = getattr(model, "pretrained_cfg", None) or {}
    channels, height, _ = trained.get("input_size", (3, 224, 224))
    size_px = img_size or height
    stem = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = channels if stem is None else stem.in_channels
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            found = model.eval()(torch.zeros(1, channels, size_px, size_px, device=device))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            field, value, f"does not take images of {size_px} px ({reason})"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ConfigError(field, value, "does not map images to features, one row each")
    return PlainBackbone(model, channels, size_px, found.shape[1])


def check_settings(config: ModelConfig, value: str) -> None:
    """Raise ConfigError for settings that need the blocks of a token transformer."""
    usual = ModelConfig()
    if config.tune not in WAYS:
        accepted = f"accepted for {value}: {', '.join(WAYS)}"
        raise ConfigError("model.tune", config.tune, accepted)
    for name in ("blocks", "pooling", "levels", *SIZES):
        if getattr(config, name) != getattr(usual, name):
            said = f"{value} has no row of blocks that take and give tokens"
            raise ConfigError(f"model.{name}", getattr(config, name), said)
