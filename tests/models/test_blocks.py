"""A block that leaves out what nobody reads gives what timm's own gives, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block, ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from mfd_flower.models import blocks
from mfd_flower.models.blocks import run_block

DIM = 24


def trunk_of(prefix: int) -> VisionTransformer:
    """Return what the blocks stand in: only its prefix tokens count here."""
    return VisionTransformer(
        img_size=8, patch_size=8, embed_dim=DIM, depth=1, num_heads=2, reg_tokens=prefix - 1
    )


def noisy(block: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block.double().eval()


def by_concatenation(
    block: nn.Module, tokens: Tensor, prompts: Tensor | None, prefix: int, read: int | None
) -> Tensor:
    """VPT's equation 4 as it stands: ``[x, _, E] = L([x, P, E])``."""
    if prompts is None:
        return block(tokens)[:, :read]
    seen = prompts.expand(len(tokens), -1, -1)
    found = block(torch.cat([tokens[:, :prefix], seen, tokens[:, prefix:]], 1))
    behind = prefix + prompts.shape[1]
    return torch.cat([found[:, :prefix], found[:, behind:]], 1)[:, :read]


KINDS: dict[str, Any] = {
    "plain": lambda: Block(DIM, 2, qkv_bias=True),
    "normed, scaled": lambda: Block(DIM, 3, qk_norm=True, init_values=0.5, scale_attn_norm=True),
    "of another kind": lambda: ParallelScalingBlock(DIM, 2, qkv_bias=True),
    "of another trunk": lambda: EvaBlock(DIM, 2),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(
    batch=st.integers(1, 3),
    patches=st.integers(1, 5),
    count=st.integers(0, 4),
    prefix=st.integers(1, 3),
    share=st.booleans(),
    first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rows_and_gradients_are_those_of_timms_block(
    kind: str, batch: int, patches: int, count: int, prefix: int, share: bool, first: bool,
    seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    block, read = noisy(KINDS[kind]()), prefix if first else None
    found = []
    tokens = torch.randn(batch, prefix + patches, DIM, dtype=torch.float64)
    prompts = torch.randn(1 if share else batch, count, DIM, dtype=torch.float64)
    for run in (
        lambda t, p: run_block(trunk_of(prefix), 0, block, t, None, prompts=p, read=read),
        lambda t, p: by_concatenation(block, t, p, prefix, read),
    ):
        leaves = tokens.clone().requires_grad_(), prompts.clone().requires_grad_()
        block.zero_grad()
        out = run(leaves[0], leaves[1] if count else None)
        out.square().sum().backward()
        grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
        found.append([out, *grads, *(p.grad for p in block.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_prompts_cost_their_keys_and_values_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    block, rows = noisy(Block(DIM, 2)), []
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(
                lambda _, given, name=name: rows.append((name, given[0][..., 0].numel()))
            )
    tokens, prompts = (torch.zeros(n, m, DIM).double() for n, m in ((7, 5), (1, 4)))
    run_block(trunk_of(1), 0, block, tokens, None, prompts=prompts, read=1)
    assert rows == [("attn.qkv", 35), ("attn.qkv", 4), ("attn.proj", 7), ("mlp.fc1", 7),
                    ("mlp.fc2", 7)]  # fmt: skip
    monkeypatch.setattr(blocks, "_read_rows", pytest.fail)
    run_block(trunk_of(1), 0, block, tokens, None)
