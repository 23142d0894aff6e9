"""A block of timm's transformers, with prompts, and with no row that nobody reads.

What a block makes of deep prompts is thrown away: before the next block other prompts take their
place (VPT, arXiv 2203.12119, equation 4). So a prompt is only a key and a value here, the same of
all samples, and asks nothing itself, as in prefix tuning (Li and Liang 2021, arXiv 2101.00190). Of
the last block a head on the class token reads that token alone. The same numbers come out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mfd_flower.models.trunk import Trunk, with_unturned


def run_block(
    trunk: Trunk,
    index: int,
    block: nn.Module,
    tokens: Tensor,
    rotation: Tensor | None,
    *,
    prompts: Tensor | None = None,
    read: int | None = None,
) -> Tensor:
    """Run block `index` on ``(batch, tokens, dim)``; returns the first `read` tokens, else all.

    `prompts` ``(1 or batch, num_prompts, dim)`` are seen, and do not come out. Prefix tokens stand
    in front of the patches, whose `rotation` is the trunk's, and prompts that stay behind them.
    """
    every = prompts is None and (read is None or read >= tokens.shape[1])
    if not every and rotation is None and _is_plain(block):
        return _read_rows(block, tokens, prompts, read)
    if prompts is None:
        return _whole(trunk, index, block, tokens, rotation)[:, :read]
    prefix, count = trunk.num_prefix_tokens, prompts.shape[1]
    seen = prompts.expand(len(tokens), -1, -1)
    found = torch.cat([tokens[:, :prefix], seen, tokens[:, prefix:]], dim=1)
    found = _whole(trunk, index, block, found, rotation)
    return torch.cat([found[:, :prefix], found[:, prefix + count :]], dim=1)[:, :read]


def _is_plain(block: nn.Module) -> bool:
    """Return whether a block is `_read_rows`, and no kin of it that does something else."""
    if type(block) is not Block:
        return False
    return type(block.attn) is Attention and block.attn.gate is None


def _whole(
    trunk: Trunk, index: int, block: nn.Module, tokens: Tensor, rotation: Tensor | None
) -> Tensor:
    if rotation is None:
        return block(tokens)
    if rotation.ndim == 4:
        rotation = rotation[index]
    # Prompts are turned by nothing, so that where they stand does not matter, as VPT says of
    # prompts behind the position embedding (section 3.2).
    prompts = tokens.shape[1] - trunk.num_prefix_tokens - rotation.shape[-2]
    return block(tokens, rope=with_unturned(rotation, prompts))


def _read_rows(block: Any, tokens: Tensor, prompts: Tensor | None, read: int | None) -> Tensor:
    attention = block.attn
    query, key, value = _heads(attention, block.norm1(tokens))
    if prompts is not None:
        _, *seen = _heads(attention, block.norm1(prompts))
        key, value = (
            torch.cat([theirs.expand(len(tokens), -1, -1, -1), own], dim=2)
            for theirs, own in zip(seen, (key, value), strict=True)
        )
    tokens, query = tokens[:, :read], query[:, :, :read]
    found = F.scaled_dot_product_attention(
        attention.q_norm(query),
        attention.k_norm(key),
        value,
        dropout_p=attention.attn_drop.p if attention.training else 0.0,
    )
    found = attention.norm(found.transpose(1, 2).flatten(2))
    tokens = tokens + block.drop_path1(block.ls1(attention.proj_drop(attention.proj(found))))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


def _heads(attention: Attention, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, ``(batch, heads, tokens, head_dim)`` each."""
    made = attention.qkv(normed).unflatten(2, (3, attention.num_heads, attention.head_dim))
    query, key, value = made.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value
