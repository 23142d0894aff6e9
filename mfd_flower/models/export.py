"""Take a trained model home: files that timm and peft read without this package, and a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mfd_flower.checks import ConfigError
from mfd_flower.data.samples import InputSpec
from mfd_flower.files import to_json, write_text
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.card import model_card
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.of_size import SIZES
from mfd_flower.models.prompts import PromptedViT, as_prompted
from mfd_flower.models.timm_form import TimmForm, head_tensors, heads_of

TOLERANCE = 1e-4
"""Of a logit, relative to the largest: the same sums in another order are within it."""
ONNX_PACKAGES = ("onnx", "onnxscript")


def export(model: TrainedModel | Path | str, out: Path | str, *, onnx: bool = False) -> Path:
    """Write a trained model in forms that timm, peft and ONNX runtimes read alone.

    A tuned head, a model tuned as a whole, and LoRA merged into its backbone become
    ``model.safetensors``, which timm loads strictly. LoRA becomes a peft adapter too. Prompts are
    inputs of blocks, which no weights hold: they become ``prompts.safetensors``. ``README.md`` is a
    model card: what the model is, how it was made and measured, the code that loads each form.

    Parameters
    ----------
    model
        A file below the ``models/`` of a run's folder, or what `TrainedModel.load` made of it.
    out
        Folder that is empty or not there yet; it is there when it is whole.
    onnx
        Write ``model.onnx`` too; needs ``mfd-flower[onnx]``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConfigError
        For bad input, or if what is exported does not give the logits of the trained model.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if onnx and missing:
        remedy = f"needs {', '.join(missing)}: pip install 'mfd-flower[onnx]'"
        raise ConfigError("--onnx", onnx, remedy)
    # timm and peft draw weights, which are overwritten.
    with _appearing(Path(out)) as folder, torch.random.fork_rng(devices=[]):
        trained = model if isinstance(model, TrainedModel) else TrainedModel.load(Path(model))
        _write(folder, trained, onnx)
    return Path(out)


def _write(folder: Path, trained: TrainedModel, onnx: bool) -> None:
    if levels := trained.about.model.levels:
        accepted = "timm has no head on several blocks; accepted by export: none"
        raise ConfigError("model.levels", levels, accepted)
    for name in SIZES:
        if value := getattr(trained.about.model, name):
            # Its norms have an epsilon of their own, or its heads are not as wide as tokens.
            accepted = "timm has no model of a size made here; accepted by export: 0"
            raise ConfigError(f"model.{name}", value, accepted)
    if trained.about.model.weights != "fp32":
        raise ConfigError("model.weights", trained.about.model.weights, "accepted by export: fp32")
    parts, about = _Parts.of(trained), trained.about
    ours, tune = parts.ours, about.model.tune
    apart: dict[str, float] = {}
    whole: nn.Module = ours
    if tune == "prompts":
        head = head_tensors(parts.in_timm(), ours.head)
        prompts = torch.stack([*ours.prompts][ours.prompt_from :])
        _save(folder / "prompts.safetensors", {"prompts": prompts, **head})
    else:
        if tune == "lora":
            adapted = parts.in_peft()
            apart["adapter_model.safetensors"] = parts.difference(adapted)
            adapted.save_pretrained(str(folder))
            whole = adapted.merge_and_unload()
        else:
            whole = parts.in_timm()
        apart["model.safetensors"] = parts.difference(whole)
        _save(folder / "model.safetensors", whole.state_dict())
    if tune in ("prompts", "lora") and not about.model.backbone.startswith("hub:"):
        _save(folder / "backbone.safetensors", parts.backbone)
    if onnx:
        _write_onnx(folder / "model.onnx", whole, parts.images)
        if find_spec("onnxruntime") is not None:
            apart["model.onnx"] = parts.difference(_onnx_model(folder / "model.onnx"))
    write_text(folder / "classes.json", to_json(about.classes) + "\n")
    write_text(folder / "README.md", model_card(folder, about, ours, parts.form, parts.spec, apart))
    for path in folder.iterdir():
        # Else safetensors' are for their owner alone.
        path.chmod((folder / "README.md").stat().st_mode)


@dataclass(frozen=True)
class _Parts:
    """A trained model, and what timm and peft have to be given."""

    name: str
    ours: PromptedViT
    form: TimmForm
    spec: InputSpec
    backbone: Mapping[str, Tensor]
    """By timm's names, without LoRA."""

    @classmethod
    def of(cls, trained: TrainedModel) -> _Parts:
        config = trained.about.model
        ours = as_prompted(trained.assembled(), "it is exported")
        frozen = load_backbone(config, trained.about.seed)
        backbone = (ours.backbone if config.tune == "full" else frozen).state_dict()
        return cls(config.backbone, ours, TimmForm.of(ours), trained.spec, backbone)

    @property
    def images(self) -> Tensor:
        """Two images of noise."""
        side_px, generator = self.spec.size_px, torch.Generator().manual_seed(0)
        return torch.randn(2, self.spec.channels, side_px, side_px, generator=generator)

    def in_timm(self) -> nn.Module:
        """Return timm's own model with the backbone's tensors and our head."""
        model = self.form.create()
        try:
            model.load_state_dict({**self.backbone, **head_tensors(model, self.ours.head)})
        except RuntimeError as error:
            raise self.refused(
                f"timm's model is another: {' '.join(str(error).split())}"
            ) from error
        return model

    def in_peft(self) -> PeftModel:
        """Return timm's own model in peft's hands, our factors and our head in its adapter."""
        base: Any = self.in_timm()
        backbone = self.ours.backbone
        given = cast(dict[str, LoraConfig], backbone.peft_config)["default"]
        config = LoraConfig(
            r=given.r,
            lora_alpha=given.lora_alpha,
            target_modules=sorted(given.target_modules),
            modules_to_save=heads_of(base),
        )
        for name, module in backbone.named_modules():
            if getattr(module, "qkv_bias_separate", False):
                # Else it takes the projection's weight without calling it: past LoRA.
                base.get_submodule(name).qkv_bias_separate = True
        adapted = get_peft_model(base, config)
        # Inside, peft named everything as in our backbone; heads alone are not in that.
        adapted.base_model.model.load_state_dict(backbone.state_dict(), strict=False)
        return adapted.eval()

    def difference(self, theirs: Callable[[Tensor], Tensor]) -> float:
        """Return how far logits are apart at most; ConfigError if they are others."""
        with torch.inference_mode():
            expected, found = self.ours(self.images), theirs(self.images)
        apart = float((found - expected).abs().max())
        accepted = TOLERANCE * float(expected.abs().max())
        if not apart <= accepted:
            said = f"exported logits are {apart:.2g} apart, accepted: {accepted:.2g}"
            raise self.refused(said)
        return apart

    def refused(self, reason: str) -> ConfigError:
        return ConfigError("model.backbone", self.name, reason)


def _write_onnx(path: Path, model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        torch.onnx.export(
            model,
            (images,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )


def _onnx_model(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(
        {name: t.detach().contiguous() for name, t in tensors.items()}, path, {"format": "pt"}
    )


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes `folder` when all is well, and goes when it is not."""

    def refused(reason: str) -> ConfigError:
        return ConfigError("--out", str(folder), reason)

    place = folder.resolve()
    try:
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise refused("accepted: a folder that is empty or not there yet")
        above = next(path for path in place.parents if path.exists())
        with TemporaryDirectory(prefix=f".{place.name}.", dir=above) as hidden:
            fresh = Path(hidden) / place.name
            fresh.mkdir()
            yield fresh
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                place.rmdir()
            fresh.rename(place)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise refused(f"not writable ({reason})") from error
