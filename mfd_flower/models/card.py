"""The model card of an exported model: what it is, how it was made and measured, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mfd_flower.checks import show
from mfd_flower.data.samples import InputSpec
from mfd_flower.models.model_file import Description
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.timm_form import TimmForm
from mfd_flower.models.trunk import ROTARY
from mfd_flower.models.tunables import named_tunables

PACKAGES = ("mfd-flower", "torch", "timm", "peft")
SHOWN_CLASSES = 20
DEALT = ("train_samples", "test_samples", "validation", "nodes", "partition")
METRICS = {
    "accuracy": "accuracy on the test set",
    "macro_accuracy": "mean accuracy of the classes there",
    "loss": "cross-entropy there",
    "validation_accuracy": "accuracy on what nodes held out",
}
WITH_PATH = ("folder", "csv", "disk", "file")
"""Kinds of data and weights whose name holds a path, which is nobody else's business."""
TEMPLATES = Environment(
    loader=PackageLoader("mfd_flower.models", "."),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)


def model_card(
    folder: Path,
    about: Description,
    model: PromptedViT,
    form: TimmForm,
    spec: InputSpec,
    differences: Mapping[str, float],
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    folder
        With the model's other files.
    spec
        What it expects of images.
    differences
        How far logits of a file are from the trained model's at most, by the file's name.
    """
    on_hub = about.model.backbone.startswith("hub:")
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    sizes.pop("README.md", None)  # peft writes one of its own.
    separate = (getattr(module, "qkv_bias_separate", False) for module in model.backbone.modules())
    transform = asdict(spec)
    size_px, channels = transform.pop("size_px"), transform.pop("channels")
    return TEMPLATES.get_template("card.md.j2").render(
        tune=about.model.tune,
        backbone=_cell(_without_path(about.model.backbone)),
        num_classes=len(about.classes),
        facts=_facts(about, model, spec),
        sizes=sizes,
        differences=differences,
        input_size=(channels, size_px, size_px),
        transform=transform,
        mode="L" if channels == 1 else "RGB",
        import_line=form.import_line,
        created=form.code(pretrained=False),
        fetched=form.code(pretrained=True) if on_hub else "",
        separate_bias=any(separate),
        first_block=model.prompt_from,
        rotary=getattr(model.backbone, ROTARY, None) is not None,
    )


def _facts(about: Description, model: PromptedViT, spec: InputSpec) -> dict[str, str]:
    """Return what the table says; what the file does not tell is left out."""
    made = about.made
    settings, metrics, heads = (_table(made, n) for n in ("settings", "metrics", "ledger_heads"))
    sent = _table(metrics, "bytes")
    dealt = {name: _told(settings.get(f"data.{name}")) for name in DEALT}
    shown = ", ".join(about.classes[:SHOWN_CLASSES])
    more = len(about.classes) - SHOWN_CLASSES
    tuned = sum(parameter.numel() for _, parameter in named_tunables(model))
    total = sum(parameter.numel() for parameter in model.parameters())
    facts = {
        "classes": f"{len(about.classes)}: {shown}" + (f" and {more} more" if more > 0 else ""),
        "images": f"{spec.size_px} x {spec.size_px} px, channels: {spec.channels}",
        "normalisation": f"values from 0 to 1, less {[*spec.mean]}, divided by {[*spec.std]}",
        "backbone": _without_path(about.model.backbone),
        "digest of its weights": about.backbone_digest,
        "tuned": f"{about.model.tune}, {tuned:,} of {total:,} parameters",
        "data": _without_path(_told(settings.get("data.name"))),
        "dealt as": ", ".join(f"{name} = {text}" for name, text in dealt.items() if text),
        "strategy": _told(made.get("strategy")),
        "seed": str(about.seed),
        "step": _told(metrics.get("step")),
        "local updates until then": _told(metrics.get("updates")),
        **{words: _told(metrics.get(name)) for name, words in METRICS.items()},
        **{f"bytes sent until then, {kind}": _told(sent.get(kind)) for kind in ("wire", "payload")},
        "version": _told(made.get("version")),
        "ledger heads": ", ".join(f"{chain} {_told(digest)}" for chain, digest in heads.items()),
        "exported with": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "licence": "yours to choose, within those of the backbone and of the data",
    }
    return {name: _cell(text) for name, text in facts.items() if text}


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _told(value: object) -> str:
    """Return what a model file of unknown origin says, as words; nothing if it says nothing."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else show(value)


def _without_path(name: str) -> str:
    """Return a name of data or weights, of a file or folder its own name alone."""
    kind, _, place = name.partition(":")
    return f"{kind}:{PurePath(place).name}" if kind in WITH_PATH else name


def _cell(text: str) -> str:
    """Return a text as it stands in a table of Markdown, where it can be no markup and no link.

    What does not print, such as the start of a terminal's commands or what turns the direction of
    writing, is left out.
    """
    plain = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return re.sub(r"([\\`|*_\[\]<>&#~$@]|:(?=//)|(?<=www)\.)", r"\\\1", plain, flags=re.IGNORECASE)
