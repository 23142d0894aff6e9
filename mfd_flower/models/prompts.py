"""Visual prompt tuning on timm's token transformers, see `mfd_flower.models.trunk`.

Jia et al. 2022, *Visual Prompt Tuning*, section 3.2 (arXiv 2203.12119), and GaisNet section II-A
(arXiv 2401.02668): learnable tokens stand between the class token and the patches,
``[x_i, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])``, and ``y = H(x_N)``. Shallow: one set, before the
first block, carried through. Deep: a set of its own before every block, replacing what the block
before made of the last one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfd_flower.checks import ConfigError
from mfd_flower.models import trunk
from mfd_flower.models.blocks import run_block
from mfd_flower.models.trunk import Trunk
from mfd_flower.models.tuned import TunedModel

IN_BLOCK = re.compile(r"(?:prompts|backbone\.blocks)\.(\d+)")


class PromptedViT(TunedModel):
    """A frozen vision transformer with tunable prompts and a tunable head.

    The backbone is frozen, kept in eval mode and not copied. `prompts` has one tensor
    ``(num_prompts, dim)`` for every block from `prompt_from` on if `deep`, else for that block
    alone; without any the new `head` alone is tuned. `dropout` is the probability of dropping a
    prompt's component in training, drawn for each sample as VPT does; `generator` draws the initial
    prompts and head; without it torch's global one does. With `levels`, rising numbers of blocks,
    the head gets the class token and the patches' mean behind each of them.
    """

    backbone: Trunk

    def __init__(
        self,
        backbone: Trunk,
        num_classes: int,
        num_prompts: int = 0,
        deep: bool = True,
        *,
        prompt_from: int = 0,
        levels: Sequence[int] = (),
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(backbone)
        self.depth = len(backbone.blocks)
        self.num_prompts = num_prompts
        self.prompt_from = prompt_from
        self.deep = deep
        self.levels = tuple(levels)
        self.grid = trunk.grid_size(backbone)
        self.dropout = dropout
        dim = backbone.embed_dim
        # Xavier uniform for a patch projection, as VPT's reference draws prompts.
        bound = math.sqrt(6 / (3 * math.prod(trunk.patch_size_px(backbone)) + dim))
        last = self.depth if deep else prompt_from + 1
        # Blocks without prompts leave a gap, so that an index is the block's.
        self.prompts = nn.ParameterList([None] * prompt_from if num_prompts else [])
        for _ in range(prompt_from, last) if num_prompts else ():
            drawn = torch.empty(num_prompts, dim).uniform_(-bound, bound, generator=generator)
            self.prompts.append(nn.Parameter(drawn))
        kinds = 2 if backbone.num_prefix_tokens else 1
        features = kinds * dim * len(self.levels) if self.levels else backbone.num_features
        self.draw_head(features, num_classes, generator)

    def embed(self, images: Tensor) -> Tensor:
        """Map images to the tokens before the first block, ``(batch, tokens, dim)``."""
        return trunk.embed(self.backbone, images)

    def through_blocks(self, tokens: Tensor, entry: int = 0, end: int | None = None) -> Tensor:
        """Run the blocks that are here, from `entry` to before `end`; ``(batch, tokens, dim)``.

        Prompts that are not deep are in the tokens behind block `prompt_from`. Behind the last
        block only the tokens are left that the head reads.
        """
        found = tokens
        for _, behind in self._behind_blocks(tokens, entry, end):
            found = behind
        return found

    def _behind_blocks(
        self, tokens: Tensor, entry: int, end: int | None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of each block, and the tokens behind it."""
        rotation = trunk.rotation(self.backbone, self.grid)
        prefix = self.backbone.num_prefix_tokens
        pooled = self.backbone.global_pool == "token" and not self.levels
        for name, block in self.backbone.blocks.named_children():
            index = int(name)
            if entry <= index and (end is None or index < end):
                prompts = self.prompts_of(index, len(tokens))
                if prompts is not None and not self.deep:
                    stay = prompts.expand(len(tokens), -1, -1)
                    tokens = torch.cat([tokens[:, :prefix], stay, tokens[:, prefix:]], dim=1)
                    prompts = None
                read = prefix if pooled and index + 1 == self.depth else None
                tokens = run_block(
                    self.backbone, index, block, tokens, rotation, prompts=prompts, read=read
                )
                yield index, tokens

    def frozen_stage(self) -> str:
        """Name the last point in front of which nothing trains, so that its inputs can be kept.

        That is ``images`` (all trains), ``tokens`` (before the first block), ``block-3`` (before
        block 3, behind three) or ``features``.
        """
        trained = [name for name, p in self.named_parameters() if p.requires_grad]
        found = [IN_BLOCK.match(name) for name in trained if not name.startswith("head.")]
        if not found:
            return "features"
        blocks = [int(match[1]) for match in found if match]
        if len(blocks) < len(found):
            return "images"
        first = min([*blocks, *self.levels])
        return f"block-{first}" if first else "tokens"

    @torch.no_grad()
    def frozen_outputs(self, stage: str, images: Tensor) -> Tensor:
        """Map images to what `forward_from` takes at `stage`, without gradients."""
        if stage == "images":
            return images
        if stage == "features":
            return self.features_from("images", images)
        return self.through_blocks(self.embed(images), end=entry_block(stage))

    def features_from(self, stage: str, inputs: Tensor) -> Tensor:
        """Return the inputs of the head from `stage` on, ``(batch, dim)``."""
        if stage == "features":
            return inputs
        tokens, entry = self.embed(inputs) if stage == "images" else inputs, entry_block(stage)
        if not self.levels:
            return self.pool(self.through_blocks(tokens, entry))
        found = [self._level(tokens)] if entry in self.levels else []
        for index, behind in self._behind_blocks(tokens, entry, self.levels[-1]):
            if index + 1 in self.levels:
                stay = index >= self.prompt_from and self._stay()
                found.append(self._level(self._without_prompts(behind) if stay else behind))
        return torch.cat(found, dim=1)

    def _level(self, tokens: Tensor) -> Tensor:
        """Return class token, if there is one, and mean of the patches, ``(batch, 1 or 2 dim)``."""
        prefix = self.backbone.num_prefix_tokens
        parts = [tokens[:, 0]] if prefix else []
        parts.append(tokens[:, prefix:].mean(1))
        return torch.cat([F.layer_norm(part, part.shape[1:]) for part in parts], dim=1)

    def prompts_of(self, index: int, batch: int) -> Tensor | None:
        """Return what block `index` gets, ``(1 or batch, num_prompts, dim)``; None without."""
        if index < self.prompt_from or index >= len(self.prompts):
            return None
        prompts = self.prompts[index][None]
        drops = self.training and self.dropout > 0
        return self._dropped(prompts.expand(batch, -1, -1)) if drops else prompts

    def _stay(self) -> bool:
        return len(self.prompts) > 0 and not self.deep

    def _without_prompts(self, tokens: Tensor) -> Tensor:
        """Take prompts that stay out of a block's tokens, ``(batch, tokens, dim)`` are left."""
        prefix = self.backbone.num_prefix_tokens
        return torch.cat([tokens[:, :prefix], tokens[:, prefix + self.num_prompts :]], dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """Map the last block's tokens to features ``(batch, dim)``; prompts are left out."""
        if self._stay() and self.backbone.global_pool != "token":
            # A backbone that pools by averaging must not average the prompts in.
            tokens = self._without_prompts(tokens)
        return self.backbone.forward_head(self.backbone.norm(tokens), pre_logits=True)

    def _dropped(self, prompts: Tensor) -> Tensor:
        # Not F.dropout: its random state is one a process, and fits run side by side.
        generator = self.dropout_generator
        device = prompts.device if generator is None else generator.device
        draw = torch.rand(prompts.shape, generator=generator, device=device).to(prompts.device)
        return prompts * (draw >= self.dropout) / (1 - self.dropout)


def as_prompted(model: TunedModel, wanted_by: str) -> PromptedViT:
    """Return a model that is one of a token transformer; ConfigError, naming who needs it."""
    if not isinstance(model, PromptedViT):
        kind = type(getattr(model.backbone, "network", model.backbone)).__name__
        said = f"accepted where {wanted_by}: token transformers, as VisionTransformer"
        raise ConfigError("model.backbone", kind, said)
    return model


def entry_block(stage: str) -> int:
    """Return the first block behind a frozen stage: 3 for ``block-3``, 0 for the others."""
    return int(stage.removeprefix("block-")) if stage.startswith("block-") else 0
