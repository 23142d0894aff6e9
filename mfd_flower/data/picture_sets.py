"""Picture sets of your own: a folder, a CSV file, a set that `datasets` saved or loads by name.

Each may come with a test set of its own and may say who holds which picture.
"""

from __future__ import annotations

import csv
import logging
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.data.image_set import PictureSet
from mfd_flower.data.labels import by_number, class_indices, is_number
from mfd_flower.data.pictures import Embedded, is_picture

TEST_SPLITS = ("test", "val", "validation")
"""The first of these that is there is the test set; another one is not used."""


def folder_set(place: str) -> PictureSet:
    """Read a folder a class, as torchvision's `ImageFolder` does; folders below are clients.

    If there is a folder `train` beside `test` or `val`, or alone, these hold the classes.
    """
    root = Path(place).expanduser()
    folders = _folders(root)
    test = _test_split(folders)
    parts = [root]
    if "train" in folders and (test or len(folders) == 1):
        parts = [root / name for name in ("train", test) if name]
    names = {name for part in parts for name in _folders(part)}
    classes = sorted(names, key=by_number if all(map(is_number, names)) else None)
    files, labels, client, is_test = [], [], [], []
    for part in parts:
        for label, name in enumerate(classes):
            found = _pictures_below(part / name)
            files += found
            labels += [label] * len(found)
            below = [file.relative_to(part / name).parts for file in found]
            client += [place[0] if len(place) > 1 else "" for place in below]
            is_test += [part != parts[0]] * len(found)
    return _picture_set(files, np.array(labels, np.int64), classes, client, is_test)


def _folders(root: Path) -> list[str]:
    return sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _pictures_below(folder: Path) -> list[Path]:
    """Return a class's pictures, by folder and name; links lead nowhere twice, and not upwards."""
    found: list[Path] = []
    above = set(folder.resolve().parents)
    seen: set[Path] = set()
    left = [folder] if folder.is_dir() else []
    while left:
        here = left.pop()
        if (real := here.resolve()) in seen or real in above:
            continue
        seen.add(real)
        for entry in here.iterdir():
            if is_picture(entry):
                found.append(entry)
            elif entry.is_dir() and not entry.name.startswith("."):
                left.append(entry)
    return sorted(found, key=lambda file: (str(file.parent), file.name))


def csv_set(place: str) -> PictureSet:
    """Read a table with columns `file` and `label`, and `client` and `split` if it has them.

    Files are relative to the table's folder.
    """
    path = Path(place).expanduser()
    lines = _csv_lines(path)
    columns = next(iter(lines.values()), {}).keys()
    if missing := {"file", "label"} - columns:
        said = f"must have the columns file and label, has {', '.join(columns) or 'none'}"
        raise ConfigError(f"{path}: {missing.pop()}", None, said)
    if "split" in columns:
        accepted = ("train", *TEST_SPLITS)
        for number, line in lines.items():
            if line["split"] not in accepted:
                name = f"{path} line {number}: split"
                raise ConfigError(name, line["split"], f"accepted: {', '.join(accepted)}")
        used = ("train", _test_split({line["split"] for line in lines.values()}))
        lines = {number: line for number, line in lines.items() if line["split"] in used}
    numbers, rows = list(lines), list(lines.values())
    for number, row in lines.items():
        if not row["file"]:
            raise ConfigError(f"{path} line {number}: file", row["file"], "missing")
    values = [row["label"] for row in rows]
    labels, classes = class_indices(values, lambda index: f"{path} line {numbers[index]}")
    files = [path.parent / row["file"] for row in rows]
    client = [row.get("client", "") for row in rows]
    is_test = [row.get("split", "train") != "train" for row in rows]
    return _picture_set(files, labels, classes, client, is_test)


def _csv_lines(path: Path) -> dict[int, dict[str, str]]:
    """Return a table's rows by the line that each ends on."""
    lines: dict[int, dict[str, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True, restval="")
            for row in reader:
                if None in row:
                    name = f"{path} line {reader.line_num}"
                    raise ConfigError(name, row[None], "more values than there are columns")
                lines[reader.line_num] = {name.strip(): row[name].strip() for name in row}
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise ConfigError("data.name", f"csv:{path}", f"not a CSV file ({error})") from error
    return lines


def saved_set(place: str) -> PictureSet:
    """Read what `datasets` saved with `save_to_disk`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(Path(place).expanduser()))
    except FileNotFoundError:
        raise
    except Exception as error:  # Of arrow's or JSON's, by which file is broken.
        said = f"not a whole saved set ({_first_line(error)})"
        raise ConfigError("data.name", f"disk:{place}", said) from error
    is_one = isinstance(found, datasets.Dataset)
    return _from_splits(f"disk:{place}", {"train": found} if is_one else found)


def hub_set(place: str) -> PictureSet:
    """Load a set of the hub, or a folder, as `datasets` does."""
    import datasets

    name = f"hf:{place}"
    remedy = "needs a network connection to the hub, or data.path = a folder that"
    datasets.disable_progress_bars()
    # Its warnings repeat, retry by retry, what the error below says in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        found = datasets.load_dataset(place)
    except Exception as error:
        said = f"not to be had ({_first_line(error)}); {remedy} datasets.load_dataset reads"
        raise ConfigError("data.name", name, said) from error
    return _from_splits(name, found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _from_splits(name: str, splits: Mapping[str, Any]) -> PictureSet:
    """Take pictures, labels and clients from the columns of the splits that are used."""
    if len(splits) > 1 and "train" not in splits:
        raise ConfigError("data.name", name, f"needs a split train, has {', '.join(splits)}")
    first = "train" if "train" in splits else next(iter(splits))
    parts = {split: splits[split] for split in (first, _test_split(splits)) if split}
    features = parts[first].features
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    columns = {kind: column for column, kind in reversed(kinds.items())}
    label = "label" if "label" in kinds else columns.get("ClassLabel")
    if "Image" not in columns or label is None:
        said = f"needs an Image column and a column label or of ClassLabel, has {kinds}"
        raise ConfigError("data.name", name, said)
    for split, part in parts.items():
        if part.features != features:
            raise ConfigError("data.name", name, f"columns of {split} are not those of {first}")
    files = _Column(parts, columns["Image"])
    values = [value for part in parts.values() for value in part[label]]
    names = getattr(features[label], "names", ())
    labels, classes = class_indices(values, files.place, names)
    client = [""] * len(values)
    if "client" in kinds:
        held = [value for part in parts.values() for value in part["client"]]
        client = ["" if value is None else str(value) for value in held]
    is_test = [split != first for split, part in parts.items() for _ in range(len(part))]
    return _picture_set(files, labels, classes, client, is_test)


class _Column(Sequence[Path | Embedded]):
    """The pictures of some splits, one after the other, each fetched when it is asked for."""

    def __init__(self, parts: Mapping[str, Any], column: str) -> None:
        import datasets

        undecoded = datasets.Image(decode=False)
        self.column, self.splits = column, list(parts)
        self.parts = [part.cast_column(column, undecoded) for part in parts.values()]
        self.starts = [0, *accumulate(map(len, self.parts))]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: Any) -> Any:
        part = bisect_right(self.starts, index) - 1
        cell = self.parts[part][index - self.starts[part]][self.column] or {}
        if cell.get("bytes") is None and cell.get("path"):
            return Path(cell["path"])
        return Embedded(self.place(index), cell.get("bytes"))

    def place(self, index: int) -> str:
        """Name a row."""
        part = bisect_right(self.starts, index) - 1
        return f"{self.splits[part]} row {index - self.starts[part]}"


def _test_split(names: Collection[str]) -> str:
    return next((name for name in TEST_SPLITS if name in names), "")


def _picture_set(
    files: Sequence[Any],
    labels: Any,
    classes: Sequence[str],
    client: Sequence[str],
    is_test: Sequence[bool],
) -> PictureSet:
    if len(files) == 0:
        raise FileNotFoundError("no pictures here")
    return PictureSet(
        files,
        labels,
        tuple(classes),
        np.array(client, dtype=np.str_) if any(client) else None,
        np.array(is_test, dtype=np.bool_) if any(is_test) else None,
    )
