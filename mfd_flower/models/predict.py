"""What a trained model sees on pictures."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import is_image_file

from mfd_flower.checks import ConfigError
from mfd_flower.data.pictures import read_pictures
from mfd_flower.data.samples import prepared
from mfd_flower.models.model_file import TrainedModel

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The classes that a picture shows most probably, the first one most of all."""

    picture: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""
    """Why the picture could not be read; there are no labels then."""


def predict(
    model: TrainedModel | Path | str, pictures: Iterable[Path | str], *, top_k: int = 1
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
    trained = model if isinstance(model, TrainedModel) else TrainedModel.load(Path(model))
    return list(predictions(trained, picture_files(pictures), top_k=top_k))


def predictions(
    model: TrainedModel, files: Sequence[Path], *, top_k: int = 1
) -> Iterator[Prediction]:
    """Yield the prediction for each file, as `predict` does; few are in memory at a time."""
    if top_k < 1:
        raise ConfigError("top_k", top_k, "must be at least 1")
    whole, classes, spec = model.assembled(), model.about.classes, model.spec
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        pixels, unreadable = read_pictures(batch, spec)
        reasons = {each.index: each.reason for each in unreadable}
        images = prepared(pixels, torch.zeros(len(pixels), dtype=torch.int64).numpy(), spec)
        with torch.inference_mode():
            found: Iterator[Tensor] = iter(whole(images.inputs).softmax(1))
        for index, file in enumerate(batch):
            if index in reasons:
                yield Prediction(str(file), error=reasons[index])
                continue
            values, places = next(found).topk(min(top_k, len(classes)))
            labels = tuple(classes[place] for place in places.tolist())
            yield Prediction(str(file), labels, tuple(values.tolist()))


def picture_files(places: Iterable[Path | str]) -> list[Path]:
    """Return the picture files that names of files, of folders, or patterns mean."""
    files: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if _is_picture(each))
        elif path.exists():
            found = [path]
        else:
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            found = [each for each in matches if each.is_file()]
        if not found:
            raise ConfigError("PICTURES", str(place), "no such file, and no pictures there")
        files += found
    return files


def _is_picture(path: Path) -> bool:
    return is_image_file(path.name) and not path.name.startswith(".") and path.is_file()
