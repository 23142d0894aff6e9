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
from typing import Any, NamedTuple

import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.data.image_set import PictureSet, some
from mfd_flower.data.labels import by_number, class_indices, is_number
from mfd_flower.data.pictures import Embedded, pictures_below

MOST_CLIENT_CHARS = 200
TEST_SPLITS = ("test", "val", "validation")
"""The first of these that is there is the test set; another one is not used."""


def folder_set(place: str) -> PictureSet:
    """Read a folder a class, as torchvision's `ImageFolder` does; folders below are clients.

    If there is a folder `train` beside `test` or `val`, or alone, these hold the classes.
    """
    root = _path(place)
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
            found = pictures_below(part / name)
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


def csv_set(place: str) -> PictureSet:
    """Read a table with columns `file` and `label`, and `client` and `split` if it has them.

    Files are relative to the table's folder.
    """
    path = _path(place)
    rows = _csv_rows(path)
    if rows and rows[0].split is not None:
        accepted = ("train", *TEST_SPLITS)
        for row in rows:
            if row.split not in accepted:
                name = f"{path} line {row.line}: split"
                raise ConfigError(name, row.split, f"accepted: {', '.join(accepted)}")
        used = ("train", _test_split({row.split for row in rows if row.split}))
        rows = [row for row in rows if row.split in used]
    for row in rows:
        if not row.file:
            raise ConfigError(f"{path} line {row.line}: file", row.file, "missing")
    values = [row.label for row in rows]
    labels, classes = class_indices(values, lambda index: f"{path} line {rows[index].line}")
    files = [path.parent / row.file for row in rows]
    client = [row.client or "" for row in rows]
    is_test = [row.split not in (None, "train") for row in rows]
    return _picture_set(files, labels, classes, client, is_test)


class _Row(NamedTuple):
    """What counts of a table's row: None where the table has no such column."""

    line: int
    """That the row ends on."""
    file: str
    label: str
    client: str | None = None
    split: str | None = None


def _csv_rows(path: Path) -> list[_Row]:
    rows = list[_Row]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            if missing := {"file", "label"} - set(columns):
                said = f"must have the columns file and label, has {some(columns) or 'none'}"
                raise ConfigError(f"{path}: {min(missing)}", None, said)
            places = {name: columns.index(name) for name in _Row._fields[1:] if name in columns}
            for values in reader:
                if len(values) > len(columns):
                    name, beyond = f"{path} line {reader.line_num}", values[len(columns) :]
                    raise ConfigError(name, beyond, "more values than there are columns")
                if values:  # Else the line is empty.
                    found = {name: _at(values, place) for name, place in places.items()}
                    rows.append(_Row(reader.line_num, **found))
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise ConfigError("data.name", f"csv:{path}", f"not a CSV file ({error})") from error
    return rows


def _at(values: Sequence[str], place: int) -> str:
    return values[place].strip() if place < len(values) else ""


def _path(place: str) -> Path:
    if "\0" in place:
        raise FileNotFoundError("no such file")
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise FileNotFoundError("no such user") from None


def saved_set(place: str) -> PictureSet:
    """Read what `datasets` saved with `save_to_disk`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(_path(place)))
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
    if len(longest := max(client, key=len)) > MOST_CLIENT_CHARS:
        accepted = f"a name of at most {MOST_CLIENT_CHARS} characters"
        raise ConfigError("client", longest, accepted)
    return PictureSet(
        files,
        labels,
        tuple(classes),
        np.array(client, dtype=np.str_) if any(client) else None,
        np.array(is_test, dtype=np.bool_) if any(is_test) else None,
    )
