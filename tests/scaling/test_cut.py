"""What is cut is what the whole would be without the rest, and goes back where it came from."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mfd_flower.config import ModelConfig
from mfd_flower.models import PromptedViT, build_model, get_tunables
from mfd_flower.scaling import Cut, cut, size_of
from mfd_flower.scaling.sizes import SizeError
from tests.scaling.test_grow import OPTIONS, images, same, transformer


def without_the_rest(model: Any, how: Cut) -> Any:
    """Return the whole in which what does not stay adds nothing."""
    left = copy.deepcopy(model)
    trunk = getattr(left, "backbone", left)
    with torch.no_grad():
        for index, block in enumerate(trunk.blocks):
            if index not in how.blocks:
                for end in (block.attn.proj, block.mlp.fc2):
                    end.weight.zero_()
                    end.bias.zero_()
                continue
            width = how.whole.head_dim
            for head in {*range(how.whole.num_heads)} - {*how.heads[index]}:
                block.attn.proj.weight[:, head * width : (head + 1) * width] = 0
            for unit in {*range(how.whole.mlp_dim)} - {*how.hidden[index]}:
                block.mlp.fc2.weight[:, unit] = 0
    return left


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 9))


@given(options=OPTIONS, whole=SIZES, shares=st.tuples(*[st.floats(0.01, 1.0)] * 3))
@settings(max_examples=40, deadline=None)
def test_it_is_the_whole_without_the_rest(
    options: dict[str, Any], whole: tuple[int, int, int], shares: tuple[float, float, float]
) -> None:
    depth, heads, ratio = whole
    options["global_pool"] = "token" if options["class_token"] else "avg"
    model = transformer(16 * heads, depth, num_heads=heads, mlp_ratio=ratio / heads, **options)
    size = size_of(model)
    wanted = {
        name: max(1, round(share * getattr(size, name)))
        for name, share in zip(("depth", "num_heads", "mlp_dim"), shares, strict=True)
    }
    how = Cut.of(model, **wanted)
    part = cut(model, how)
    assert size_of(part) == how.part
    same(without_the_rest(model, how), part)
    tensors, state = model.state_dict(), part.state_dict()
    back = how.put_back(state, tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    # What the part has learned is all there, and nothing else has moved.
    learned = {name: tensor + 1 for name, tensor in state.items()}
    grown_back = how.put_back(learned, tensors)
    assert all(torch.equal(t, learned[n]) for n, t in how.taken(grown_back).items())
    moved = sum(int((grown_back[n] != tensors[n]).sum()) for n in tensors)
    assert moved == sum(tensor.numel() for tensor in state.values())


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 384), st.integers(1, 384))
@settings(max_examples=20, deadline=None)
def test_sizes_contain_each_other(few: int, more: int, units: int, most: int) -> None:
    model = build_model(ModelConfig(), 10, 0)
    small = Cut.of(model, num_heads=min(few, more, 3), mlp_dim=min(units, most))
    large = Cut.of(model, num_heads=min(max(few, more), 3), mlp_dim=max(units, most))
    for one, other in zip(small.heads + small.hidden, large.heads + large.hidden, strict=True):
        assert {*one} <= {*other}


@pytest.mark.parametrize(
    "prompts", [(3, True, 0), (3, True, 2), (2, False, 0), (2, False, 1), (0, True, 0)]
)
def test_prompts_and_head_go_with_it(prompts: tuple[int, bool, int]) -> None:
    number, deep, first = prompts
    model = PromptedViT(transformer(depth=4), 4, number, deep, prompt_from=first)
    model = model.double().eval()
    how = Cut.of(model, depth=3, num_heads=1, mlp_dim=100)
    part = cut(model, how)
    assert part(images()).shape == (3, 4)
    assert part.backbone.blocks[1].attn.num_heads == 1
    tunables, own = get_tunables(model), get_tunables(part)
    assert set(how.taken(tunables)) == set(own)
    back = how.put_back(own, tunables)
    assert all(torch.equal(back[name], tunables[name]) for name in tunables)


def test_levels_stay_apart() -> None:
    model = PromptedViT(transformer(depth=4), 4, levels=(2, 4)).double().eval()
    part = cut(model, Cut.of(model, depth=2))
    assert part.levels == (1, 2)
    assert part(images()).shape == (3, 4)
    with pytest.raises(SizeError, match="too few for levels behind 2, 4 blocks"):
        cut(model, Cut.of(model, depth=1))


def test_lora_goes_with_it() -> None:
    model = copy.deepcopy(build_model(ModelConfig(tune="lora", lora_rank=3), 5, 0)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    how = Cut.of(model, num_heads=2, mlp_dim=200, depth=4)
    part = cut(model, how)
    shown = torch.randn(2, 1, 28, 28)
    merged = without_the_rest(model, how)
    torch.testing.assert_close(part(shown), merged(shown))
    tunables, own = get_tunables(model), get_tunables(part)
    back = how.put_back({n: t * 2 for n, t in own.items()}, tunables)
    assert all(torch.equal(t, 2 * own[n]) for n, t in how.taken(back).items())


def test_what_is_frozen_stays_frozen() -> None:
    model = build_model(ModelConfig(), 10, 0)
    part = cut(model, Cut.of(model, depth=3))
    assert {n for n, p in part.named_parameters() if p.requires_grad} == {
        *(f"prompts.{block}" for block in range(3)),
        *(f"head.{name}" for name in ("weight", "bias")),
    }
    assert len(model.backbone.blocks) == 6


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"depth": 0}, "depth = 0: must be from 1 to 2"),
        ({"depth": 3}, "depth = 3: must be from 1 to 2"),
        ({"num_heads": 5}, "num_heads = 5: must be from 1 to 2"),
        ({"mlp_dim": 257}, "mlp_dim = 257: must be from 1 to 256"),
    ],
)
def test_what_cannot_be_cut_is_one_line(wanted: dict[str, int], line: str) -> None:
    with pytest.raises(SizeError, match=re.escape(line)):
        Cut.of(transformer(), **wanted)


def test_other_networks_are_not_cut() -> None:
    with pytest.raises(SizeError, match="accepted: timm's VisionTransformer"):
        Cut.of(nn.Linear(3, 3))
