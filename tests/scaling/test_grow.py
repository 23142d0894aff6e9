"""What is grown is the same function, learns apart, and comes back."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mfd_flower.config import ModelConfig
from mfd_flower.models import PromptedViT, build_model
from mfd_flower.scaling import grow, shrink, size_of
from mfd_flower.scaling.sizes import Size, SizeError

WIDTHS = (64, 96, 128, 192, 256, 384)


def transformer(width: int = 64, depth: int = 2, **options: Any) -> VisionTransformer:
    """Return one whose parameters are all drawn, so that nothing is equal or zero by chance."""
    torch.manual_seed(0)
    sizes = {"embed_dim": width, "depth": depth, "num_heads": options.pop("num_heads", 2)}
    model = VisionTransformer(
        img_size=16, patch_size=8, in_chans=1, num_classes=5, **sizes, **options
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.1 if parameter.ndim < 2 or "token" in name or "embed" in name else 0.5
            parameter.add_(spread * torch.randn_like(parameter) / parameter.shape[-1] ** 0.25)
    return model.double().eval()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def same(one: nn.Module, other: nn.Module, bound: float = 1e-12) -> None:
    """Compare logits on random images, and on ones of next to no contrast."""
    for shown in (images(), 1e-4 * images(), images() * 1e-9 + 0.3):
        with torch.no_grad():
            first, second = one(shown), other(shown)
        assert (first - second).abs().max() <= bound * max(1.0, first.abs().max().item())
        assert (first.argmax(1) == second.argmax(1)).all()


@pytest.mark.parametrize(("small", "wide"), itertools.combinations_with_replacement(WIDTHS, 2))
def test_a_wider_model_is_the_same_function(small: int, wide: int) -> None:
    model = transformer(small)
    grown = grow(model, embed_dim=wide)
    assert size_of(grown).embed_dim == wide
    same(model, grown)
    with torch.no_grad():
        first, second = model.float()(images().float()), grown.float()(images().float())
    assert (first - second).abs().max() <= 1e-5 * max(1.0, first.abs().max().item())


@pytest.mark.parametrize(
    ("shallow", "deep"), itertools.combinations_with_replacement(range(2, 13, 2), 2)
)
def test_a_deeper_model_is_the_same_function(shallow: int, deep: int) -> None:
    model = transformer(depth=shallow)
    grown = grow(model, depth=deep)
    assert len(grown.blocks) == deep
    same(model, grown)


OPTIONS = st.fixed_dictionaries(
    {
        "init_values": st.sampled_from([None, 0.3]),
        "reg_tokens": st.sampled_from([0, 2]),
        "qkv_bias": st.booleans(),
        "class_token": st.booleans(),
        "fc_norm": st.sampled_from([None, True]),
    }
)


@given(
    options=OPTIONS,
    sizes=st.tuples(st.integers(16, 40), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3)),
    more=st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(0, 3), st.floats(0, 2)),
)
@settings(max_examples=60, deadline=None)
def test_whatever_grows_is_the_same_and_comes_back(
    options: dict[str, Any], sizes: tuple[int, ...], more: tuple[Any, ...]
) -> None:
    units, depth, heads, ratio = sizes
    options["global_pool"] = "token" if options["class_token"] else "avg"
    model = transformer(units * heads, depth, num_heads=heads, mlp_ratio=ratio, **options)
    more_heads = heads + more[2]
    wide = more_heads * (units + more[0])
    wanted = {"embed_dim": wide, "depth": depth + more[1], "num_heads": more_heads}
    grown = grow(model, **wanted, mlp_ratio=ratio + more[3])
    same(model, grown)
    back = shrink(grown)
    assert size_of(back) == size_of(model)
    found, before = back.state_dict(), model.state_dict()
    assert list(found) == list(before)
    for name, tensor in before.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9)
    assert [m.eps for m in back.modules() if isinstance(m, nn.LayerNorm)] == pytest.approx(
        [m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)], rel=1e-12
    )
    same(model, back)


@pytest.mark.parametrize(
    "prompts", [(3, True, 0), (3, True, 1), (2, False, 0), (2, False, 1), (0, True, 0)]
)
@pytest.mark.parametrize("levels", [(), (1, 3)])
def test_prompts_and_head_grow_with_it(
    prompts: tuple[int, bool, int], levels: tuple[int, ...]
) -> None:
    number, deep, first = prompts
    model = PromptedViT(transformer(depth=3), 4, number, deep, prompt_from=first, levels=levels)
    model = model.double().eval()
    nn.init.normal_(model.head.weight)
    wide = 192 if levels else 160
    grown = grow(model, embed_dim=wide, depth=5, num_heads=4)
    same(model, grown)
    assert {n for n, p in grown.named_parameters() if p.requires_grad} >= {
        "head.weight",
        "head.bias",
    }
    assert not any(p.requires_grad for p in grown.backbone.parameters())
    back = shrink(grown)
    same(model, back)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=0, atol=1e-9)


def test_lora_grows_with_it() -> None:
    config = ModelConfig(tune="lora", lora_rank=3)
    # Frozen weights are the process's, and stay what they are.
    model = copy.deepcopy(build_model(config, 5, 0)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model = model.double()
    shown = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    grown = grow(model, embed_dim=160, depth=6, num_heads=4)
    with torch.no_grad():
        before, after = model(shown), grown(shown)
        assert (before - after).abs().max() <= 1e-12 * before.abs().max()
    trained = {n for n, p in grown.named_parameters() if p.requires_grad}
    assert trained == {n for n in trained if "lora_" in n or n.startswith("head.")}
    assert len([n for n in trained if "lora_" in n]) == 12
    for name, tensor in shrink(grown).state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=1e-9)


def test_copies_get_gradients_of_their_own() -> None:
    """No two rows of a grown layer that were one row get the same gradient."""
    grown = grow(transformer(), embed_dim=192, depth=3)
    grown.requires_grad_(True).train()
    loss = nn.functional.cross_entropy(grown(images()), torch.tensor([0, 1, 2]))
    loss.backward()
    for layer in (grown.patch_embed.proj, grown.blocks[0].mlp.fc1, grown.blocks[0].attn.qkv):
        rows = layer.weight.grad.flatten(1)
        rows = rows / rows.norm(dim=1, keepdim=True)
        alike = (rows @ rows.T - torch.eye(len(rows))).max()
        assert alike < 1 - 1e-6
    # Blocks that do nothing yet learn to do something.
    idle = next(b for b in grown.blocks if not b.mlp.fc2.weight.any())
    assert idle.mlp.fc2.weight.grad.abs().max() > 0
    assert idle.attn.proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"embed_dim": 32}, "embed_dim = 32: must be at least 64, what it is now"),
        ({"depth": 1}, "depth = 1: must be at least 2, what it is now"),
        ({"embed_dim": 65}, "num_heads = 2: must divide embed_dim = 65"),
        ({"embed_dim": 128, "num_heads": 3}, "num_heads = 3: must divide embed_dim = 128"),
        ({"embed_dim": 128, "num_heads": 8}, "num_heads = 8: at most 4, since heads of 32"),
        ({"embed_dim": 128, "num_heads": 1}, "num_heads = 1: must be at least 2"),
        ({"num_heads": 0}, "num_heads = 0: must be at least 2"),
        ({"mlp_ratio": 1.0}, "mlp_dim = 64: must be at least 256"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio = nan: must be a number above 0"),
    ],
)
def test_what_it_cannot_grow_to_is_one_line(wanted: dict[str, Any], line: str) -> None:
    with pytest.raises(SizeError) as refused:
        grow(transformer(), **wanted)
    assert str(refused.value).startswith(line)


def test_what_is_not_grown_says_so() -> None:
    with pytest.raises(SizeError, match="not known to be grown"):
        shrink(transformer())
    with pytest.raises(SizeError, match="must be at least"):
        shrink(transformer(), Size(128, 2, 4, 512))
    with pytest.raises(SizeError, match="before the blocks"):
        grow(transformer(pre_norm=True), embed_dim=160)
    same(model := transformer(pre_norm=True), grow(model, embed_dim=128))
    with pytest.raises(SizeError, match="norms or gates"):
        grow(transformer(qk_norm=True), embed_dim=128)
    with pytest.raises(SizeError, match="a head reads levels"):
        grow(PromptedViT(transformer(), 4, levels=(1, 2)), embed_dim=96)
