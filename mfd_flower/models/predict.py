"""What a trained model sees on pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import TrainConfig
from mfd_flower.data.pictures import pictures_below, read_pictures
from mfd_flower.data.samples import InputSpec, prepared
from mfd_flower.models.devices import device_for, held
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.residents import placed

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The classes that a picture shows most probably, the first one most of all."""

    picture: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""
    """Why the picture could not be read; there are no labels then."""


@dataclass(frozen=True)
class Pictures:
    """Picture files that were read for a model."""

    files: Sequence[Path]
    images: Tensor
    """Those that could be read, ``(n, channels, side, side)``, normalised."""
    errors: Mapping[int, str]
    """Why the others could not be, by their index in `files`."""

    @classmethod
    def read(cls, files: Sequence[Path], spec: InputSpec) -> Pictures:
        """Decode files as a model of this `spec` expects them."""
        pixels, unreadable = read_pictures(files, spec)
        nobody = np.zeros(len(pixels), np.int64)
        images = prepared(pixels, nobody, spec).inputs[:]
        return cls(files, images, {each.index: each.reason for each in unreadable})

    def ranked(
        self, logits: Tensor, classes: Sequence[str], top_k: int = 1
    ) -> Iterator[Prediction]:
        """Yield what logits ``(n, classes)`` of the `images` say of each file."""
        shares = iter(logits.softmax(1))
        for index, file in enumerate(self.files):
            if index in self.errors:
                yield Prediction(str(file), error=self.errors[index])
                continue
            values, places = next(shares).topk(min(top_k, len(classes)))
            labels = tuple(classes[place] for place in places.tolist())
            yield Prediction(str(file), labels, tuple(values.tolist()))


def predict(
    model: TrainedModel | Path | str,
    pictures: Iterable[Path | str],
    *,
    top_k: int = 1,
    accelerator: str = "auto",
) -> list[Prediction]:
    """Classify pictures with a model that a run kept.

    Parameters
    ----------
    model
        A file below the ``models/`` of a run's folder, or what `TrainedModel.load` made of it.
    pictures
        Files, folders, which are searched for pictures, or patterns such as ``"new/*.jpg"``.
    top_k
        Classes a picture, at most as many as the model has.
    accelerator
        What computes it, as `TrainConfig.accelerator`; in fp32.

    Returns
    -------
    list of Prediction
        One for each picture, in this order, those of a folder by name.

    Raises
    ------
    ConfigError
        If the model does not fit the backbone that is found here, its file is damaged, or a place
        has no pictures.
    """
    if top_k < 1:
        raise ConfigError("top_k", top_k, "must be at least 1")
    trained = model if isinstance(model, TrainedModel) else TrainedModel.load(Path(model))
    device = device_for(TrainConfig(accelerator=accelerator))
    files, spec = picture_files(pictures), trained.spec
    whole = placed(trained.assembled(), device)
    found: list[Prediction] = []
    for start in range(0, len(files), BATCH):
        read = Pictures.read(files[start : start + BATCH], spec)
        with torch.inference_mode(), held(device, "32"):
            logits = whole(read.images.to(device)).cpu()
        found += read.ranked(logits, trained.about.classes, top_k)
    return found


def picture_files(places: Iterable[Path | str]) -> list[Path]:
    """Return the picture files that names of files, of folders, or patterns mean."""
    files: list[Path] = []
    for place in places:
        try:
            found = _found(Path(place).expanduser())
        except (OSError, RuntimeError, ValueError) as error:
            # A name is too long, a user is not known, a pattern is none.
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError("PICTURES", str(place), reason) from error
        if not found:
            raise ConfigError("PICTURES", str(place), "no such file, and no pictures there")
        files += found
    return files


def _found(path: Path) -> list[Path]:
    if path.is_dir():
        return pictures_below(path)
    if path.exists():
        return [path]
    path = path / "*" if path.name == "**" else path
    # Unlike glob's own, `**` of a path goes through no links, which may lead in circles.
    matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return [each for each in matches if each.is_file() and _hidden(each) <= _hidden(path)]


def _hidden(path: Path) -> set[str]:
    return {part for part in path.parts if part.startswith(".")}
