"""What is taken home gives the trained model's logits to those who have timm and peft alone."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mfd_flower.config import ModelConfig
from mfd_flower.models import PromptedViT, build_model, get_tunables
from mfd_flower.models.arch import new_fm_tiny
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.build import input_spec
from mfd_flower.models.export import export
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.predict import Pictures, predict
from mfd_flower.models.timm_form import TimmForm, head_tensors
from mfd_flower.models.trunk import Trunk

VIT, GAP = "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"
DISTILLED, EVA = "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"
SHAPED = {"img_size": 64, "in_chans": 1, "blocks": 4, "pooling": "avg"}
CLASSES = ("cat", "dog", "a | `b`\n```\n# c", "Ünïcödé")
MADE: dict[str, Any] = {
    "strategy": "mfd-walk",
    "version": "ab" * 32,
    "ledger_heads": {"vit#w0": "cd" * 32},
    "settings": {"data.name": "folder:/home/anna/pictures", "data.nodes": 7},
    "metrics": {"step": 12, "accuracy": 0.91254, "bytes": {"wire": 1234567, "payload": 1200000}},
}


def timm_model(arch: str, tune: str, **more: Any) -> ModelConfig:
    return ModelConfig(backbone="random", arch=arch, tune=tune, **more)  # type: ignore[arg-type]


CASES = {
    "head": ModelConfig(tune="head"),
    "full": ModelConfig(tune="full"),
    "lora": ModelConfig(tune="lora", lora_rank=3, lora_alpha=5),
    "prompts": ModelConfig(tune="prompts", prompts=5),
    "prompts, shallow": ModelConfig(tune="prompts", prompts=5, deep=False),
    "timm, head": timm_model(VIT, "head"),
    "squashed, head": timm_model(VIT, "head"),
    "timm, lora": timm_model(VIT, "lora"),
    "timm, prompts": timm_model(VIT, "prompts"),
    "registers and mean, prompts": replace(
        timm_model(GAP, "prompts", prompts=2), backbone="file:HERE/gap.safetensors"
    ),
    "two heads, prompts": timm_model(DISTILLED, "prompts", prompts=2),
    "two heads, lora": timm_model(DISTILLED, "lora"),
    "rotary, prompts": timm_model(EVA, "prompts", prompts=2, img_size=70),
    "rotary, shallow": timm_model(EVA, "prompts", prompts=2, img_size=70, deep=False),
    "rotary, lora": timm_model(EVA, "lora", img_size=70),
    "shaped, prompts": timm_model(VIT, "prompts", **SHAPED, prompt_from=2),
    "shaped, lora": timm_model(VIT, "lora", **SHAPED),
    "hub, prompts": ModelConfig(backbone=f"hub:{VIT}", tune="prompts"),
    "hub, lora": ModelConfig(backbone=f"hub:{VIT}", tune="lora"),
}
"""HERE is the folder of the fixture `taken`."""
ALONE = """
import os, re, sys
from pathlib import Path
import timm
from safetensors.torch import save_file

create = timm.create_model
def from_the_hub(name, pretrained=False, **keywords):
    # There is no network: the hub's file lies here.
    overlay = {"pretrained_cfg_overlay": {"file": sys.argv[1]}} if pretrained else {}
    return create(name, pretrained=pretrained, **overlay, **keywords)
timm.create_model = from_the_hub

for folder in sys.argv[2:]:
    os.chdir(folder)
    card = Path("README.md").read_text()
    blocks = dict(re.findall(r"## (\\w[^`]*?)\\n\\n```python\\n(.*?)```", card, re.DOTALL))
    for title in [title for title in blocks if title.startswith("Load")]:
        names = {}
        exec(blocks[title] + blocks["Classify a picture"], names)
        found = {name: names[name].contiguous() for name in ("images", "logits")}
        save_file(found, f"{title}.found")
assert not [name for name in sys.modules if name.startswith(("mfd_flower", "flwr", "lightning"))]
"""
"""Runs the code of cards as it stands there."""


def trained(config: ModelConfig, made: dict[str, Any] = MADE, crop_mode: str = "") -> TrainedModel:
    """Return a model whose tunables are noise, so that none of them does nothing."""
    generator = torch.Generator().manual_seed(7)
    tunables = get_tunables(build_model(config, len(CLASSES), 3))
    noise = {n: torch.randn(t.shape, generator=generator) * 0.05 for n, t in tunables.items()}
    tensors = {name: tunables[name] + noise[name] for name in tunables}
    spec = input_spec(load_backbone(config, 3))
    spec = replace(spec, crop_mode=crop_mode or spec.crop_mode)
    return TrainedModel.of(tensors, config, CLASSES, 3, made, spec)


def saved(config: ModelConfig, path: Path, made: dict[str, Any] = MADE) -> Path:
    trained(config, made).save(path)
    return path


def config_of(case: str, here: Path) -> ModelConfig:
    config = CASES[case]
    return replace(config, backbone=config.backbone.replace("HERE", str(here)))


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Export all cases, and let the cards' code classify a picture where only timm and peft are."""
    place = tmp_path_factory.mktemp("home")
    hub = place / "hub.safetensors"
    save_file(timm.create_model(VIT).state_dict(), hub)
    gap = timm.create_model(GAP, num_classes=0).state_dict()
    # As it is drawn, its blocks add next to nothing to what passes them.
    gap |= {name: torch.ones_like(tensor) for name, tensor in gap.items() if "gamma" in name}
    save_file(gap, place / "gap.safetensors")
    create = timm.create_model

    def from_the_hub(name: str, pretrained: bool = False, **keywords: Any) -> Any:
        overlay = {"pretrained_cfg_overlay": {"file": str(hub)}} if pretrained else {}
        return create(name, pretrained=pretrained, **overlay, **keywords)

    generator, folders = np.random.default_rng(5), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", from_the_hub)
        for name in CASES:
            config = config_of(name, place)
            model = trained(config, crop_mode="squash" if "squashed" in name else "")
            model.save(place / f"{name}.safetensors")
            folder = export(place / f"{name}.safetensors", place / name)
            # With an alpha channel: what is transparent stands on white.
            picture = Image.fromarray(generator.integers(0, 256, (90, 120, 4), np.uint8))
            picture.save(folder / "picture.png")
            folders.append(folder)
        script = place / "alone.py"
        script.write_text(ALONE)
        done = subprocess.run(
            [sys.executable, script, hub, *folders], cwd=place, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        yield place


def found_by(taken: Path, case: str, title: str) -> tuple[Tensor, Tensor]:
    """Return what the code below a title of the card took in, and its logits."""
    found = load_file(taken / case / f"{title}.found")
    return found["images"], found["logits"]


def logits_of(model: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_timm_and_peft_alone_give_the_trained_models_logits(taken: Path, case: str) -> None:
    config = config_of(case, taken)
    titles = {"lora": "Load the adapter", "prompts": "Load it"}
    title = titles.get(config.tune, "Load the whole model")
    images, logits = found_by(taken, case, title)
    expected = logits_of(trained(config).assembled(), images)
    # Rows that nobody reads are left out of ours, so that sums are taken in another order.
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)
    frozen = PromptedViT(load_backbone(config, 3), len(CLASSES))
    frozen.head.load_state_dict(trained(config).assembled().head.state_dict())
    if config.tune != "head":
        assert (logits - logits_of(frozen, images)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name, each in CASES.items() if each.tune == "lora"])
def test_the_merged_model_is_ours_with_its_factors_merged(taken: Path, case: str) -> None:
    images, logits = found_by(taken, case, "Load the whole model")
    # peft merges in place, and the frozen weights are one for all models of the process.
    ours = copy.deepcopy(trained(CASES[case]).assembled())
    apart = logits_of(ours, images)
    for module in ours.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    merged = logits_of(ours, images)
    torch.testing.assert_close(logits, merged, rtol=0, atol=2e-6)
    torch.testing.assert_close(merged, apart, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["timm, head", "timm, lora"])
def test_timm_takes_a_merged_file_as_a_checkpoint(taken: Path, case: str) -> None:
    file = taken / case / "model.safetensors"
    model = timm.create_model(VIT, num_classes=len(CLASSES), checkpoint_path=file).eval()
    images, logits = found_by(taken, case, "Load the whole model")
    assert torch.equal(logits_of(model, images), logits)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["head", "timm, head", "squashed, head"])
def test_the_card_classifies_a_picture_as_predict_does(taken: Path, case: str) -> None:
    model = TrainedModel.load(taken / f"{case}.safetensors")
    images, logits = found_by(taken, case, "Load the whole model")
    picture = taken / case / "picture.png"
    assert torch.equal(images, Pictures.read([picture], model.spec).images)
    ((found),) = predict(model, [picture], top_k=len(CLASSES))
    values, places = logits[0].softmax(0).sort(descending=True)
    assert found.labels == tuple(CLASSES[place] for place in places.tolist())
    assert found.probabilities == pytest.approx(values.tolist(), abs=1e-6)


@pytest.mark.slow
def test_the_loader_of_prompts_has_15_lines(taken: Path) -> None:
    for case in [name for name, config in CASES.items() if config.tune == "prompts"]:
        card = (taken / case / "README.md").read_text()
        ((loader),) = re.findall(r"## Load it\n\n```python\n(.*?)```", card, re.DOTALL)
        more = 2 if "rotary" in case or "shaped" in case else 0  # Which have more to be told.
        assert len([line for line in loader.splitlines() if line]) <= 15 + more


@pytest.mark.slow
def test_weights_that_the_hub_has_are_not_copied(taken: Path) -> None:
    assert (taken / "timm, prompts" / "backbone.safetensors").exists()
    assert not (taken / "hub, prompts" / "backbone.safetensors").exists()
    assert "vit_tiny_patch16_224.augreg" in (taken / "hub, prompts" / "README.md").read_text()


@pytest.mark.slow
def test_the_card_says_how_the_model_was_made_and_no_path(taken: Path) -> None:
    card = (taken / "timm, prompts" / "README.md").read_text()
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", card, re.MULTILINE))
    assert rows["strategy"] == "mfd-walk"
    assert rows["accuracy on the test set"] == "0.9125"
    assert rows["bytes sent until then, wire"] == "1,234,567"
    assert rows["ledger heads"] == r"vit\#w0 " + "cd" * 32
    assert rows["version"] == "ab" * 32
    assert rows["digest of its weights"] == trained(CASES["timm, prompts"]).about.backbone_digest
    assert rows["data"] == "folder:pictures"
    assert rows["dealt as"] == "nodes = 7"
    assert "local updates until then" not in rows
    assert "anna" not in card


@pytest.mark.slow
def test_names_of_classes_are_no_markup_and_all_kept(taken: Path) -> None:
    for case in CASES:
        card = (taken / case / "README.md").read_text()
        assert r"cat, dog, a \| \`b\` \`\`\` \# c, Ünïcödé" in card
        assert re.findall(r"^# .*", card, re.MULTILINE) == [card.splitlines()[5]]
        assert json.loads((taken / case / "classes.json").read_text()) == [*CLASSES]


def test_a_file_that_tells_nothing_of_its_making_has_a_card(tmp_path: Path) -> None:
    odd = {"metrics": 3, "settings": {"data.name": ["x"]}, "strategy": {"a": 1}, "version": True}
    for number, made in enumerate(({}, odd)):
        model = saved(ModelConfig(tune="head"), tmp_path / "model.safetensors", made)
        card = (export(model, tmp_path / str(number)) / "README.md").read_text()
        assert "| classes | 4: cat" in card
        assert "accuracy" not in card


def pooled_fm_tiny() -> Trunk:
    return load_backbone(ModelConfig(img_size=35, blocks=2, pooling="avg"))


@pytest.mark.parametrize("make", [new_fm_tiny, pooled_fm_tiny])
def test_timm_is_told_a_backbones_shape(make: Any) -> None:
    """The model that it makes takes every tensor, and so does the one of the card's code."""
    ours = PromptedViT(make(), 4).eval()
    form = TimmForm.of(ours)
    names: dict[str, Any] = {}
    exec(f"{form.import_line}\n{form.code(pretrained=False)}", names)
    spec = input_spec(ours.backbone)
    images = torch.randn(2, spec.channels, spec.size_px, spec.size_px)
    for model in (form.create(), names["model"]):
        model.load_state_dict({**ours.backbone.state_dict(), **head_tensors(model, ours.head)})
        apart = (logits_of(model, images) - logits_of(ours, images)).abs().max()
        assert apart <= 2e-6
