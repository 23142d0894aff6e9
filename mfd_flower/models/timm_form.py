"""A model as timm makes it alone: a model card shows the same calls that are made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mfd_flower.models.build import input_spec
from mfd_flower.models.prompts import PromptedViT


@dataclass(frozen=True)
class TimmForm:
    """How timm makes a backbone with a classifier on it."""

    name: str
    """Of timm; empty for a `VisionTransformer` in a shape that timm has no name for."""
    tag: str
    """Of the weights that timm has for it on the hub, if any."""
    keywords: Mapping[str, Any]
    blocks: int = 0
    """How many of its blocks are used; 0 is all."""
    pooling: str = ""
    """How tokens become features, where that is not timm's own way for it."""

    @classmethod
    def of(cls, model: PromptedViT) -> TimmForm:
        """Read off a model what timm has to be told."""
        backbone, spec = model.backbone, input_spec(model.backbone)
        known = getattr(backbone, "pretrained_cfg", None) or {}
        shape = {"img_size": spec.size_px, "in_chans": spec.channels}
        if not known.get("architecture"):
            blocks: Any = backbone.blocks
            shape |= {
                "patch_size": backbone.patch_embed.patch_size[0],
                "embed_dim": backbone.embed_dim,
                "num_heads": blocks[0].attn.num_heads,
                "depth": len(blocks),
            }
        keywords = {"num_classes": model.head.out_features, **shape}
        form = cls(known.get("architecture") or "", known.get("tag") or "", keywords)
        with torch.device("meta"):
            usual = form.create()
        if len(backbone.blocks) < len(usual.blocks):
            form = replace(form, blocks=len(backbone.blocks))
        if backbone.global_pool != usual.global_pool:
            form = replace(form, pooling=backbone.global_pool)
        return form

    def create(self) -> Any:
        """Make the model, in eval mode; its weights are drawn."""
        model: Any
        if self.name:
            model = timm.create_model(self.name, **self.keywords)
        else:
            model = VisionTransformer(**self.keywords)
        if self.blocks:
            model.blocks = model.blocks[: self.blocks]
        if self.pooling:
            model.reset_classifier(self.keywords["num_classes"], self.pooling)
        return model.eval()

    @property
    def import_line(self) -> str:
        """The line of Python that `code` needs in front."""
        if self.name:
            return "import timm"
        return "from timm.models.vision_transformer import VisionTransformer"

    def code(self, *, pretrained: bool) -> str:
        """Return the lines of Python that do what `create` does.

        If `pretrained`, timm fetches the backbone's weights too.
        """
        words = [f"{name}={value}" for name, value in self.keywords.items()]
        if self.name:
            tagged = f"{self.name}.{self.tag}" if pretrained and self.tag else self.name
            words = [f'"{tagged}"', *(["pretrained=True"] if pretrained else []), *words]
            lines = [f"model = timm.create_model({', '.join(words)}).eval()"]
        else:
            indent, half = " " * len("model = VisionTransformer("), len(words) // 2
            lines = [f"model = VisionTransformer({', '.join(words[:half])},"]
            lines += [f"{indent}{', '.join(words[half:])}).eval()"]
        if self.blocks:
            lines.append(f"model.blocks = model.blocks[:{self.blocks}]")
        if self.pooling:
            lines.append(
                f'model.reset_classifier({self.keywords["num_classes"]}, "{self.pooling}")'
            )
        return "\n".join(lines)


def heads_of(model: nn.Module) -> list[str]:
    """Return the names of a timm model's classifiers: a distilled one has two, and takes a mean."""
    return [name for name in ("head", "head_dist") if hasattr(model, name)]


def head_tensors(model: nn.Module, head: nn.Linear) -> dict[str, Tensor]:
    """Return a classifier's tensors by the names that they have in timm's `model`."""
    own = head.state_dict()
    return {f"{name}.{part}": own[part].clone() for name in heads_of(model) for part in own}
