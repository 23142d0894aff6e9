"""A trained model as a file: its tunables, and all that one has to know to use them.

safetensors, without pickle. The metadata has a `Description` as JSON. The frozen backbone is not in
the file: it is found by name, and its digest tells whether it is the one that was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import SHOWN_CHARS, Bounds, ConfigError, Form, Length, build, show
from mfd_flower.config import ModelConfig
from mfd_flower.data.samples import InputSpec
from mfd_flower.files import write_bytes
from mfd_flower.models.backbones import backbone_digest, load_backbone
from mfd_flower.models.build import build_model, input_spec
from mfd_flower.models.tunables import set_tunables
from mfd_flower.models.tuned import TunedModel
from mfd_flower.names import MAX_CLASSES

FORMAT = "mfd-flower model 1"
DESCRIPTION = "description"
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Description:
    """What a model file says of its tunables."""

    model: ModelConfig
    classes: Annotated[tuple[str, ...], Length(MAX_CLASSES, 2)]
    backbone_digest: Annotated[str, Form(r"[0-9a-f]{64}", "64 hexadecimal digits")]
    input: InputSpec
    """Size, channels and normalisation of the images, and how a picture is brought to them."""
    seed: Annotated[int, Bounds(0)] = 0
    """Of the run; it draws the weights of the backbone ``random``."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How: strategy, step, metrics, version, the run's settings, ledger."""


@dataclass(frozen=True)
class TrainedModel:
    """Tunables with what belongs to them."""

    tensors: Mapping[str, Tensor]
    about: Description

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        config: ModelConfig,
        classes: tuple[str, ...],
        seed: int,
        made: Mapping[str, Any],
        spec: InputSpec | None = None,
    ) -> TrainedModel:
        """Return tunables that were trained on the backbone that `config` names.

        `spec` is how images were brought to it, if not as the backbone has it.
        """
        backbone = load_backbone(config, seed)
        digest, spec = backbone_digest(backbone), spec or input_spec(backbone)
        return cls(tensors, Description(config, classes, digest, spec, seed, made))

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        about = {"format": FORMAT, DESCRIPTION: dump_json(asdict(self.about))}
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        write_bytes(path, save(tensors, about))

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """Read a file of unknown origin; ConfigError says what of it is not as `save` writes it.

        Other floats become float32; integers, and values that are not finite, are refused.
        """

        def refused(name: str, value: object, accepted: str) -> ConfigError:
            return ConfigError("MODEL", str(path), f"{name} = {show(value)}: {accepted}")

        try:
            if path.exists() and not path.is_file():
                raise OSError("no regular file")  # A pipe would be waited for.
            with safe_open(path, "pt") as file:
                told = file.metadata() or {}
                if told.get("format") != FORMAT:
                    raise refused("format", told.get("format"), f"accepted: {FORMAT}, as runs keep")
                about = load_json(DESCRIPTION, told.get(DESCRIPTION, ""), refused)
                described = build(Description, about, error=refused)
                names = sorted(file.keys())
                for name in names:
                    if not name.isprintable() or len(name) > SHOWN_CHARS:
                        raise refused("tensor", name, "no tunable has such a name")
                tensors = {name: _float(name, file.get_tensor(name), refused) for name in names}
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            said = f"not a safetensors file ({reason})"
            raise ConfigError("MODEL", str(path), said) from error
        return cls(tensors, described)

    @property
    def spec(self) -> InputSpec:
        """How images are brought to it, as those that it was trained on.

        Raises
        ------
        ConfigError
            If the backbone takes images of another shape.
        """
        told, own = self.about.input, input_spec(load_backbone(self.about.model, self.about.seed))
        fits = {
            "size_px": told.size_px == own.size_px,
            "channels": told.channels == own.channels,
            "mean": len(told.mean) == own.channels,
            "std": len(told.std) == own.channels,
        }
        for name in (name for name, it_fits in fits.items() if not it_fits):
            said = f"the backbone's is {show(getattr(own, name))}"
            raise ConfigError(f"MODEL: input.{name}", getattr(told, name), said)
        return told

    def assembled(self) -> TunedModel:
        """Return the whole model in eval mode, on the backbone as it is found here.

        Raises
        ------
        ConfigError
            If the backbone has other weights than the one that was trained with, or the tunables
            are not those of such a model.
        """
        about = self.about
        found = backbone_digest(load_backbone(about.model, about.seed))
        if found != about.backbone_digest:
            digests = f"{found[:16]} here, {about.backbone_digest[:16]} when it was trained"
            said = f"its weights are others: digest {digests}"
            raise ConfigError("model.backbone", about.model.backbone, said)
        model = build_model(about.model, len(about.classes), about.seed)
        try:
            set_tunables(model, self.tensors)
        except ValueError as error:
            raise ConfigError("MODEL", f"tune = {about.model.tune}", str(error)) from error
        return model.eval()


def _float(name: str, tensor: Tensor, refused: Any) -> Tensor:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype not in FLOATS:
        raise refused(name, kind, "accepted: float32, float16, bfloat16, float64")
    found = tensor.float()
    if not bool(torch.isfinite(found).all()):
        raise refused(name, kind, "has values that are not finite as float32")
    return found
