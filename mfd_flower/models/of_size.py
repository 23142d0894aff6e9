"""Backbones at another size than their own.

Whitepaper, section 2.4: a global size W0 travels; a strong node grows it, a weak one cuts it, and
both bring back what they have trained. Every node derives the same weights from W0's.
"""

from __future__ import annotations

from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models.trunk import Trunk
from mfd_flower.scaling import Cut, Size, cut, grow, size_of
from mfd_flower.scaling.sizes import SizeError

SIZES = ("embed_dim", "depth", "num_heads", "mlp_ratio")
"""Settings of a model that say another size than the backbone's own."""


def is_sized(config: ModelConfig) -> bool:
    """Tell whether settings ask for another size than the backbone's own."""
    return any(getattr(config, name) for name in SIZES)


def of_size(backbone: Trunk, config: ModelConfig) -> Trunk:
    """Return a backbone grown or cut to the size that `config` asks for.

    Raises
    ------
    ConfigError
        If it cannot have that size, or is no plain vision transformer.
    """
    try:
        own = size_of(backbone)
        wanted = _wanted(own, config)
        if own.embed_dim == wanted.embed_dim and at_most(wanted, own):
            return cut(backbone, cut_to(backbone, wanted))
        ratio = wanted.mlp_dim / wanted.embed_dim
        heads = config.num_heads or None
        return grow(
            backbone,
            embed_dim=wanted.embed_dim,
            depth=wanted.depth,
            mlp_ratio=ratio,
            num_heads=heads,
        )
    except SizeError as error:
        told = {name: value for name in SIZES if (value := getattr(config, name))}
        raise ConfigError("model", told, str(error)) from error


def _wanted(own: Size, config: ModelConfig) -> Size:
    width, depth = config.embed_dim or own.embed_dim, config.depth or own.depth
    hidden = int(width * (config.mlp_ratio or own.mlp_dim / own.embed_dim))
    head_dim = own.head_dim if width == own.embed_dim else 0
    return Size(width, depth, config.num_heads or own.num_heads, hidden, head_dim)


def at_most(size: Size, other: Size) -> bool:
    """Tell whether a size is at most another, inside its blocks and in their number."""
    return all(
        getattr(size, name) <= getattr(other, name) for name in ("depth", "num_heads", "mlp_dim")
    )


def cut_to(backbone: nn.Module, wanted: Size) -> Cut:
    """Return what stays in a backbone of such a size."""
    return Cut.of(backbone, depth=wanted.depth, num_heads=wanted.num_heads, mlp_dim=wanted.mlp_dim)
