"""Stages in a row are the whole model, and each has only its own part of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mfd_flower.accounting.costs import measure_step
from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models import PromptedViT, build_model, load_backbone
from mfd_flower.models.stages import split_model
from mfd_flower.models.tunables import get_tunables, named_tunables, set_tunables
from tests.models.test_prompts import DEPTH, IMAGES, eva, vit

LABELS = torch.tensor([0, 1, 2, 3, 4])


def small_model(kind: str, dtype: torch.dtype = torch.float32) -> PromptedViT:
    """Build a model of three blocks that tunes what `kind` names."""
    if kind == "average":
        return PromptedViT(vit(class_token=False, global_pool="avg"), 7, 4, deep=True).to(dtype)
    if kind in ("deep", "shallow"):
        return PromptedViT(vit(), 7, 4, deep=kind == "deep").to(dtype)
    if kind in ("deep later", "shallow later"):
        return PromptedViT(vit(), 7, 4, deep=kind == "deep later", prompt_from=1).to(dtype)
    if kind in ("rotary", "mixed"):
        return PromptedViT(eva(kind), 7, 4, deep=kind == "mixed").to(dtype)
    if kind == "head":
        return PromptedViT(vit(), 7).to(dtype)
    return PromptedViT(vit(), 7).to(dtype).requires_grad_(True)


def gradients(outputs: Tensor, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(outputs, LABELS).backward()
    return {name: p.grad.clone() for name, p in named_tunables(model) if p.grad is not None}


def in_a_row(stages: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    for stage in stages:
        inputs = stage(inputs)
    return inputs


cut_lists = st.lists(st.integers(0, DEPTH), unique=True, max_size=3).map(sorted)


KINDS = ["deep", "shallow", "average", "head", "full"]
KINDS += ["deep later", "shallow later", "rotary", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
@settings(max_examples=12, deadline=None)
@given(cuts=cut_lists, u_shape=st.booleans())
def test_stages_in_a_row_are_the_whole(
    kind: str, dtype: torch.dtype, tolerance: float, cuts: list[int], u_shape: bool
) -> None:
    model = small_model(kind, dtype).train()
    if u_shape:
        cuts = [cut for cut in cuts if cut < DEPTH]
    stages = split_model(model, cuts, u_shape=u_shape)
    assert len(stages) == len(cuts) + 1 + u_shape
    whole, parts = model(IMAGES.to(dtype)), in_a_row(stages, IMAGES.to(dtype))
    torch.testing.assert_close(parts, whole, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        gradients(parts, model), gradients(whole, model), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("cuts", [[0], [1, 4], [2, 3, 5, 6]])
def test_lora_stages_are_the_whole(cuts: list[int]) -> None:
    model = build_model(ModelConfig(tune="lora"), 10, 0)
    model = copy.deepcopy(model).double().train()
    with torch.no_grad():  # Fresh factors multiply to zero, which would hide them.
        for _, parameter in named_tunables(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    whole, parts = model(images), in_a_row(split_model(model, cuts), images)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(parts, model), gradients(whole, model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tune", ["prompts", "lora", "head", "full"])
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 5), unique=True, max_size=4).map(sorted))
def test_every_parameter_is_in_one_stage_by_the_wholes_name(tune: str, cuts: list[int]) -> None:
    model = build_model(ModelConfig(tune=tune), 10, 0)  # type: ignore[arg-type]
    parts = [stage.part for stage in split_model(model, cuts, u_shape=True)]
    held = [(name, id(p)) for part in parts for name, p in part.named_parameters()]
    assert sorted(held) == sorted((name, id(p)) for name, p in model.named_parameters())
    tunables = [name for part in parts for name in get_tunables(part)]
    assert sorted(tunables) == sorted(get_tunables(model))
    assert sorted(key for part in parts for key in part.state_dict()) == sorted(model.state_dict())


def test_training_a_stage_trains_the_whole_and_copies_no_frozen_weight() -> None:
    model = build_model(ModelConfig(), 10, 0)
    middle = split_model(model, [2, 4])[1]
    backbone = load_backbone(ModelConfig())
    blocks = {id(p) for block in backbone.blocks[2:4] for p in block.parameters()}
    assert {id(p) for p in middle.parameters() if not p.requires_grad} == blocks
    changed = {name: tensor + 1 for name, tensor in get_tunables(middle.part).items()}
    assert changed.keys() == {"prompts.2", "prompts.3"}
    set_tunables(middle.part, changed)
    assert all(torch.equal(get_tunables(model)[name], changed[name]) for name in changed)
    assert len(list(backbone.parameters())) == len(list(model.backbone.parameters()))


@pytest.mark.parametrize(
    ("kind", "cut", "tokens"),
    [
        ("deep", 0, 5),
        ("deep", 1, 5),
        ("shallow", 0, 5),
        ("shallow", 1, 5 + 4),
        ("deep", DEPTH, 1),
        ("average", DEPTH, 4),
        ("deep later", 1, 5),
        ("shallow later", 1, 5),
        ("shallow later", 2, 5 + 4),
        ("head", 2, 5),
    ],
)
def test_only_tokens_that_are_read_later_cross_a_cut(kind: str, cut: int, tokens: int) -> None:
    model = small_model(kind)
    smashed = split_model(model, [cut])[0](IMAGES)
    assert smashed.shape == (5, tokens, 24)


def test_first_stage_takes_what_emb_made() -> None:
    model = small_model("deep").eval()
    stages = split_model(model, [1], inputs="tokens")
    torch.testing.assert_close(in_a_row(stages, model.embed(IMAGES)), model(IMAGES))


@pytest.mark.parametrize("kind", ["deep later", "shallow later"])
@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2], [3]])
def test_first_stage_takes_what_frozen_blocks_made(kind: str, cuts: list[int]) -> None:
    model = small_model(kind).eval()
    stages = split_model(model, cuts, inputs=model.frozen_stage())
    kept = model.frozen_outputs("block-1", IMAGES)
    torch.testing.assert_close(in_a_row(stages, kept), model(IMAGES))
    held = [name for stage in stages for name, _ in stage.part.named_parameters()]
    assert sorted(held) == sorted(name for name, _ in model.named_parameters())


def test_a_cut_in_front_of_what_is_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cuts = \[0, 2\].* from 1 to 3"):
        split_model(small_model("deep later"), [0, 2], inputs="block-1")


def test_rotations_that_all_blocks_learn_are_not_split() -> None:
    model = PromptedViT(eva("mixed"), 7).requires_grad_(True)
    with pytest.raises(ConfigError, match=r"model\.tune = 'full': .* rotations for all blocks"):
        split_model(model, [1])


@pytest.mark.parametrize("cuts", [[2, 1], [1, 1], [-1], [DEPTH + 1]])
def test_cuts_that_are_none_are_refused(cuts: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"cuts = \[.*strictly increasing .* from 0 to 3"):
        split_model(small_model("deep"), cuts)


def test_u_shape_leaves_the_last_cut_to_the_head() -> None:
    with pytest.raises(ConfigError, match=r"cuts = \[3\].* from 0 to 2"):
        split_model(small_model("deep"), [DEPTH], u_shape=True)
    with pytest.raises(ConfigError, match="inputs = 'features': accepted: images, tokens, block-1"):
        split_model(small_model("deep"), [1], inputs="features")


def test_a_stage_takes_less_memory_than_the_whole() -> None:
    model = build_model(ModelConfig(), 10, 0).train()
    images = torch.randn(8, 1, 28, 28)
    whole = measure_step(model, images, lambda model, images: model(images).sum(), 2)
    inputs, costs = images, []
    for stage in split_model(model, [2, 4], u_shape=True):
        received = inputs.detach().requires_grad_(inputs is not images)
        costs.append(measure_step(stage, received, lambda stage, x: stage(x).sum(), 2))
        inputs = stage(received)
    assert all(cost.peak_bytes < 0.5 * whole.peak_bytes for cost in costs)
    # Between stages only the input's gradient is extra work: of the tokens before the first block.
    assert whole.flops <= sum(cost.flops for cost in costs) < 1.1 * whole.flops
