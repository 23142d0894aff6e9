"""Knowledge of unlike models as something that can be put together."""

from mfd_flower.sharing.lora import Fused, averaged_apart, fuse_lora

__all__ = ["Fused", "averaged_apart", "fuse_lora"]
