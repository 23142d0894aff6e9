"""Prompts stand where the paper puts them, and nothing but tunables trains."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig
from mfd_flower.models import PromptedViT, build_model, get_tunables, load_backbone, set_tunables
from mfd_flower.models.build import check_model, lora_targets

DIM, DEPTH = 24, 3


def vit(**keywords: object) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=16,
        patch_size=8,
        in_chans=1,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=2,
        num_classes=0,
        **keywords,  # type: ignore[arg-type]
    )
    # Fresh weights are so small that blocks hardly matter; trained ones are not.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def eva(rope_type: str = "cat", **keywords: object) -> Eva:
    """Return a small Eva with rotary positions: `mixed` ones are learned for each block."""
    torch.manual_seed(0)
    kind = "cat" if rope_type == "rotary" else rope_type
    model = Eva(
        img_size=16,
        patch_size=4,
        in_chans=1,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=2,
        num_classes=0,
        use_rot_pos_emb=True,
        rope_type=kind,
        attn_type="rope" if kind == "mixed" else "eva",
        global_pool="token",
        **keywords,  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


IMAGES = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("deep", "layers"), [(True, DEPTH), (False, 1)])
@pytest.mark.parametrize("prompts", [1, 4])
def test_parameter_count_is_the_closed_form(deep: bool, layers: int, prompts: int) -> None:
    tunables = get_tunables(PromptedViT(vit(), 7, prompts, deep))
    names = {"head.weight", "head.bias"} | {f"prompts.{i}" for i in range(layers)}
    assert tunables.keys() == names
    count = sum(t.numel() for name, t in tunables.items() if name.startswith("prompts"))
    assert count == prompts * DIM * layers


def test_without_prompts_it_is_the_backbone() -> None:
    backbone = vit()
    model = PromptedViT(backbone, 7)
    features = backbone.forward_head(backbone.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(model(IMAGES), model.head(features))


def blocks_by_hand(model: PromptedViT, images: torch.Tensor, deep: bool) -> torch.Tensor:
    """Follow VPT's equations 2 and 4 literally: [x, P, E] -> L -> [x, _, E]."""
    backbone = model.backbone
    tokens = backbone._pos_embed(backbone.patch_embed(images))
    x, e = tokens[:, :1], tokens[:, 1:]
    z = model.prompts[0].expand(len(images), -1, -1)
    for index, block in enumerate(backbone.blocks):
        if deep:
            z = model.prompts[index].expand(len(images), -1, -1)
        out = block(torch.cat([x, z, e], dim=1))
        count = model.num_prompts
        x, z, e = out[:, :1], out[:, 1 : 1 + count], out[:, 1 + count :]
    return model.head(backbone.norm(x)[:, 0])


@pytest.mark.parametrize("deep", [True, False])
def test_prompts_follow_the_papers_equations(deep: bool) -> None:
    model = PromptedViT(vit(), 7, 4, deep).eval()
    torch.testing.assert_close(model(IMAGES), blocks_by_hand(model, IMAGES, deep))


def test_prompts_are_not_averaged_into_the_features() -> None:
    backbone = vit(class_token=False, global_pool="avg")
    model = PromptedViT(backbone, 7, 4, deep=False).eval()
    pooled = []
    backbone.fc_norm.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    tokens = backbone._pos_embed(backbone.patch_embed(IMAGES))
    out = torch.cat([model.prompts[0].expand(5, -1, -1), tokens], dim=1)
    for block in backbone.blocks:
        out = block(out)
    model(IMAGES)
    torch.testing.assert_close(pooled[0], backbone.norm(out)[:, 4:].mean(1))


def test_prompt_bound_is_the_references() -> None:
    prompts = torch.cat(list(PromptedViT(vit(), 7, 500).prompts))
    bound = (6 / (3 * 8 * 8 + DIM)) ** 0.5
    assert prompts.abs().max() <= bound
    assert prompts.abs().max() > 0.99 * bound


@pytest.mark.parametrize("tune", ["full", "head", "prompts", "lora"])
def test_frozen_part_then_the_rest_is_the_whole(tune: str) -> None:
    model = build_model(ModelConfig(tune=tune), 10, 0).eval()  # type: ignore[arg-type]
    images = torch.randn(3, 1, 28, 28)
    stage = model.frozen_stage()
    expected = {"full": "images", "head": "features", "prompts": "tokens", "lora": "tokens"}
    assert stage == expected[tune]
    torch.testing.assert_close(
        model.forward_from(stage, model.frozen_outputs(stage, images)), model(images)
    )


@pytest.mark.parametrize("tune", ["head", "prompts", "lora"])
def test_training_moves_every_tunable_and_nothing_frozen(tune: str) -> None:
    model = build_model(ModelConfig(tune=tune), 10, 0)  # type: ignore[arg-type]
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = get_tunables(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    for _ in range(2):  # LoRA's first factor sees no gradient until the second has moved.
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimiser.step()
    after = get_tunables(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert not model.backbone.training


def test_lora_starts_as_the_backbone_and_shares_its_weights() -> None:
    config = ModelConfig(tune="lora", lora_rank=3)
    model = build_model(config, 10, 0)
    backbone = load_backbone(config)
    images = torch.randn(2, 1, 28, 28)
    plain = backbone.forward_head(backbone.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model(images), model.head(plain))
    own = {p.data_ptr() for p in model.backbone.parameters() if not p.requires_grad}
    assert own == {p.data_ptr() for p in backbone.parameters()}
    lora = sum(t.numel() for n, t in get_tunables(model).items() if "lora" in n)
    assert lora == 3 * (96 + 3 * 96) * 6


def test_initial_tunables_depend_on_the_seed_alone() -> None:
    for tune in ("prompts", "lora", "full"):
        config = ModelConfig(tune=tune)  # type: ignore[arg-type]
        torch.manual_seed(1)
        first = get_tunables(build_model(config, 10, 5))
        torch.manual_seed(2)
        second = get_tunables(build_model(config, 10, 5))
        other = get_tunables(build_model(config, 10, 6))
        assert all(torch.equal(first[n], second[n]) for n in first)
        assert any(not torch.equal(first[n], other[n]) for n in first)


def test_dropout_drops_prompts_in_training_only() -> None:
    model = PromptedViT(vit(), 7, 4, dropout=0.5)
    model.dropout_generator = torch.Generator().manual_seed(0)
    first, second = model.train()(IMAGES), model(IMAGES)
    assert not torch.equal(first, second)
    model.dropout_generator.manual_seed(0)
    torch.testing.assert_close(model(IMAGES), first)
    torch.testing.assert_close(model.eval()(IMAGES), model(IMAGES))


def test_each_sample_has_a_mask_of_its_own_and_the_mean_stays() -> None:
    model = PromptedViT(vit(), 7, 4, dropout=0.25).train()
    model.dropout_generator = torch.Generator().manual_seed(0)
    count = 4000
    tokens = model.prompts_of(0, count)
    assert tokens is not None
    dropped = tokens == 0
    assert len(dropped[:10].unique(dim=0)) == 10
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.01)
    # Of each component so many draws: four standard errors of its mean.
    bound = 4 * (0.25 / 0.75 / count) ** 0.5 * model.prompts[0].abs()
    assert ((tokens.mean(0) - model.prompts[0]).abs() <= bound).float().mean() > 0.99


def test_tunables_are_set_whole_or_not_at_all() -> None:
    model = PromptedViT(vit(), 7, 2)
    before = get_tunables(model)
    changed = {name: t + 1 for name, t in before.items()}
    with pytest.raises(ValueError, match=r"tunables missing: head\.bias"):
        set_tunables(model, {n: t for n, t in changed.items() if n != "head.bias"})
    with pytest.raises(ValueError, match="not tunables of this model: backbone"):
        set_tunables(model, {**changed, "backbone.cls_token": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"tunable prompts\.1: shape \(3, 24\)"):
        set_tunables(model, {**changed, "prompts.1": torch.zeros(3, DIM)})
    assert all(torch.equal(before[n], t) for n, t in get_tunables(model).items())
    set_tunables(model, changed)
    assert all(torch.equal(changed[n], t) for n, t in get_tunables(model).items())


def test_a_stems_batch_norm_keeps_its_statistics_whatever_trains() -> None:
    backbone = vit()
    norm = nn.BatchNorm2d(DIM)
    backbone.patch_embed.proj = nn.Sequential(backbone.patch_embed.proj, norm)
    model = PromptedViT(backbone, 7).requires_grad_(True).train()
    assert backbone.blocks.training
    model(IMAGES)
    assert torch.equal(norm.running_mean, torch.zeros(DIM))


def test_prompts_have_no_place_so_that_it_does_not_matter_where_they_stand() -> None:
    backbone = eva()
    model = PromptedViT(backbone, 7, 4, deep=False).eval()
    tokens, rotation = backbone._pos_embed(backbone.patch_embed(IMAGES))
    assert rotation is not None
    unturned = torch.cat([torch.zeros(4, 12), torch.ones(4, 12)], dim=-1)
    tokens = torch.cat([tokens, model.prompts[0].expand(5, -1, -1)], dim=1)
    for block in backbone.blocks:
        tokens = block(tokens, rope=torch.cat([rotation, unturned]))
    torch.testing.assert_close(model(IMAGES), model.head(backbone.norm(tokens)[:, 0]))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prompt_from": 6}, "model.prompt_from = 6: accepted: less than 6"),
        ({"prompt_from": 2, "blocks": 2}, "model.prompt_from = 2: accepted: less than 2"),
    ],
)
def test_what_cannot_be_tuned_is_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        build_model(ModelConfig(**settings), 10, 0)


@pytest.mark.parametrize("tune", ["full", "head", "prompts", "lora"])
def test_a_model_that_works_passes_its_check_and_is_left_as_it_was(tune: str) -> None:
    model = build_model(ModelConfig(tune=tune), 10, 0)  # type: ignore[arg-type]
    before = get_tunables(model)
    check_model(model, tune)
    assert all(torch.equal(before[n], t) and t.grad is None for n, t in get_tunables(model).items())
    assert all(p.grad is None for p in model.parameters())


def test_a_tunable_that_is_not_used_is_found_by_the_check() -> None:
    model = PromptedViT(vit(), 7, 2)
    model.idle = nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match=r"model\.tune = 'prompts': .* makes no use of idle"):
        check_model(model, "prompts")


def test_a_model_that_does_not_run_is_found_by_the_check() -> None:
    model = PromptedViT(vit(), 7, 2)
    model.prompts[1] = nn.Parameter(torch.zeros(2, DIM + 1))
    with pytest.raises(ConfigError, match="this backbone does not run so") as caught:
        check_model(model, "prompts")
    assert "\n" not in str(caught.value)


def test_prompts_do_not_fit_where_pairs_of_tokens_have_a_bias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beit = Beit(img_size=16, patch_size=8, embed_dim=DIM, depth=1, num_heads=2, num_classes=0)
    monkeypatch.setattr("mfd_flower.models.build.load_backbone", lambda *settings: beit)
    with pytest.raises(ConfigError, match=r"model\.tune = 'prompts': its blocks add a bias"):
        build_model(ModelConfig(), 10, 0)


@pytest.mark.parametrize(
    ("backbone", "targets"),
    [
        (vit(), {"qkv"}),
        (vit(block_fn=ParallelScalingBlock), {"in_proj"}),
        (vit(block_fn=ParallelThingsBlock), {"qkv"}),
        (eva(qkv_fused=False), {"q_proj", "k_proj", "v_proj"}),
        (eva(), {"qkv"}),
    ],
    ids=["plain", "parallel", "side by side", "apart", "with a bias of its own"],
)
def test_lora_reaches_what_makes_queries_keys_and_values(
    backbone: nn.Module, targets: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfd_flower.models.build.load_backbone", lambda *settings: backbone)
    before = backbone.forward_head(backbone.forward_features(IMAGES), pre_logits=True)
    model = build_model(ModelConfig(tune="lora"), 4, 0)
    adapted = {n.split(".lora_")[0].split(".")[-1] for n in get_tunables(model) if "lora" in n}
    assert adapted == targets == set(lora_targets(backbone))
    check_model(model, "lora")
    torch.testing.assert_close(model.eval()(IMAGES), model.head(before))
    after = backbone.forward_head(backbone.forward_features(IMAGES), pre_logits=True)
    assert torch.equal(after, before)


def test_lora_without_a_projection_to_adapt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = vit()
    for block in backbone.blocks:
        block.attn = nn.Identity()
    monkeypatch.setattr("mfd_flower.models.build.load_backbone", lambda *settings: backbone)
    with pytest.raises(ConfigError, match=r"model\.tune = 'lora': its blocks have none of in_proj"):
        build_model(ModelConfig(tune="lora"), 4, 0)
