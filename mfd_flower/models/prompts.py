"""Visual prompt tuning on any timm vision transformer.

Jia et al. 2022, *Visual Prompt Tuning*, section 3.2 (arXiv 2203.12119), and GaisNet section II-A
(arXiv 2401.02668): learnable tokens stand between the class token and the patches,
``[x_i, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])``, and ``y = H(x_N)``. Shallow: one set, before the
first block, carried through. Deep: a set of its own before every block, replacing what the block
before made of the last one.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mfd_flower.config import ModelConfig


class PromptedViT(nn.Module):
    """A frozen vision transformer with tunable prompts and a tunable head.

    The backbone is frozen, kept in eval mode and not copied. `prompts` has one tensor
    ``(num_prompts, dim)`` for every block if `deep`, else for the first; without any the new `head`
    alone is tuned. `dropout` is the probability of dropping a prompt's component in training, drawn
    for each sample as VPT does; `generator` draws the initial prompts and head; without it torch's
    global one does.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        num_classes: int,
        num_prompts: int = 0,
        deep: bool = True,
        *,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.num_prompts = num_prompts
        self.dropout = dropout
        self.dropout_generator: torch.Generator | None = None
        self.built_from: tuple[ModelConfig, int, int] | None = None
        """Settings, number of classes and seed, if `build_model` made the model."""
        dim = backbone.embed_dim
        # Xavier uniform for a patch projection, as VPT's reference draws prompts.
        patch_height, patch_width = backbone.patch_embed.patch_size
        bound = math.sqrt(6 / (3 * patch_height * patch_width + dim))
        layers = (len(backbone.blocks) if deep else 1) if num_prompts else 0
        self.prompts = nn.ParameterList(
            nn.Parameter(torch.empty(num_prompts, dim).uniform_(-bound, bound, generator=generator))
            for _ in range(layers)
        )
        self.head = nn.Linear(backbone.num_features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """Set training mode of the tuned parts; frozen weights stay in eval mode."""
        super().train(mode)
        self.backbone.train(mode and all(p.requires_grad for p in self.backbone.parameters()))
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``."""
        return self.forward_from("images", images)

    def embed(self, images: Tensor) -> Tensor:
        """Map images to the tokens before the first prompt, ``(batch, tokens, dim)``."""
        vit = self.backbone
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))

    def features(self, tokens: Tensor) -> Tensor:
        """Run the blocks on what `embed` returned; pooled features ``(batch, dim)``."""
        for index, block in enumerate(self.backbone.blocks):
            tokens = block(self.insert_prompts(tokens, index))
        return self.pool(tokens)

    def frozen_stage(self) -> str:
        """Name the last point in front of which nothing trains, so that its inputs can be kept.

        That is ``images`` (all trains), ``tokens`` (before the first block) or ``features``.
        """
        trained = [name for name, p in self.named_parameters() if p.requires_grad]
        if all(name.startswith("head.") for name in trained):
            return "features"
        if all(name.startswith(("head.", "prompts.", "backbone.blocks.")) for name in trained):
            return "tokens"
        return "images"

    @torch.no_grad()
    def frozen_outputs(self, stage: str, images: Tensor) -> Tensor:
        """Map images to what `forward_from` takes at `stage`, without gradients."""
        if stage == "images":
            return images
        tokens = self.embed(images)
        return tokens if stage == "tokens" else self.features(tokens)

    def forward_from(self, stage: str, inputs: Tensor) -> Tensor:
        """Classify from `stage` on; logits ``(batch, num_classes)``."""
        tokens = self.embed(inputs) if stage == "images" else inputs
        return self.head(tokens if stage == "features" else self.features(tokens))

    def insert_prompts(self, tokens: Tensor, index: int, entry: int = 0) -> Tensor:
        """Put the prompts of block `index` after the prefix tokens, replacing earlier ones.

        Tokens are ``(batch, tokens, dim)`` before block `entry`, ``(batch, tokens + num_prompts,
        dim)`` from then on; where the block has no prompts they are returned as they are.
        """
        if index >= len(self.prompts):
            return tokens
        prompts = self._dropped(self.prompts[index].expand(len(tokens), -1, -1))
        prefix = self.backbone.num_prefix_tokens
        patches = prefix + (self.num_prompts if index > entry else 0)
        return torch.cat([tokens[:, :prefix], prompts, tokens[:, patches:]], dim=1)

    def without_prompts(self, tokens: Tensor) -> Tensor:
        """Take the prompts out of a block's tokens, ``(batch, tokens, dim)`` are left."""
        prefix = self.backbone.num_prefix_tokens
        return torch.cat([tokens[:, :prefix], tokens[:, prefix + self.num_prompts :]], dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """Map the last block's tokens to features ``(batch, dim)``; prompts are left out."""
        if len(self.prompts) > 0:
            # A backbone that pools by averaging must not average the prompts in.
            tokens = self.without_prompts(tokens)
        return self.backbone.forward_head(self.backbone.norm(tokens), pre_logits=True)

    def _dropped(self, prompts: Tensor) -> Tensor:
        if not self.training or self.dropout == 0:
            return prompts
        # Not F.dropout: its random state is one a process, and fits run side by side.
        generator = self.dropout_generator
        device = prompts.device if generator is None else generator.device
        draw = torch.rand(prompts.shape, generator=generator, device=device).to(prompts.device)
        return prompts * (draw >= self.dropout) / (1 - self.dropout)
