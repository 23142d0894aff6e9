"""Pictures of one's own: whatever form they come in, the same pictures, labels, tests, clients."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig
from mfd_flower.data import ImageSet, load_federation, load_set
from mfd_flower.data.samples import InputSpec

datasets.disable_progress_bars()
SPEC = InputSpec(8, 3, (0.5,) * 3, (0.5,) * 3)
Row = tuple[str, str, str, int]
ROWS: list[Row] = [
    (split, label, client, 10 * number)
    for number, (split, label, client) in enumerate(
        (split, label, client)
        for split in ("train", "train", "test")
        for label in ("cat", "dog")
        for client in ("anna", "ben", "10")
    )
]
"""Split, label, client and grey value of each picture."""


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


def as_folder(rows: Sequence[Row], root: Path) -> str:
    for split, label, client, grey in rows:
        folder = root / split / label / client
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{grey}.png").write_bytes(png(grey))
    return f"folder:{root}"


def as_csv(rows: Sequence[Row], root: Path) -> str:
    with (root / "table.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(["split", "label", "client", "file"])
        for split, label, client, grey in rows:
            (root / f'{grey}, "x".png').write_bytes(png(grey))
            table.writerow([split, label, client, f'{grey}, "x".png'])
    return f"csv:{root / 'table.csv'}"


def saved(rows: Sequence[Row], **changes: Any) -> datasets.DatasetDict:
    splits = {}
    for split in dict.fromkeys(row[0] for row in rows):
        _, labels, clients, greys = zip(*(row for row in rows if row[0] == split), strict=True)
        columns = {
            "image": [{"bytes": png(grey), "path": None} for grey in greys],
            "label": labels,
            "client": clients,
        }
        part = datasets.Dataset.from_dict({**columns, **changes})
        splits[split] = part.cast_column("image", datasets.Image())
    return datasets.DatasetDict(splits)


def as_saved(rows: Sequence[Row], root: Path) -> str:
    saved(rows).save_to_disk(root / "set")
    return f"disk:{root / 'set'}"


def as_class_labels(rows: Sequence[Row], root: Path) -> str:
    made = saved(rows)
    made.class_encode_column("label").save_to_disk(root / "set")
    return f"disk:{root / 'set'}"


FORMS = [as_folder, as_csv, as_saved, as_class_labels]


def content(found: ImageSet) -> set[tuple[str, str, str, int]]:
    """Return what `ROWS` were made of."""
    assert found.client is not None
    assert found.is_test is not None
    greys = found.images.mean((1, 2, 3)).astype(int).tolist()
    labels = [found.classes[label] for label in found.labels]
    splits = ["test" if held_out else "train" for held_out in found.is_test]
    return set(zip(splits, labels, found.client.tolist(), greys, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_set(
    form: Callable[[Sequence[Row], Path], str], tmp_path: Path
) -> None:
    found = load_set(form(ROWS, tmp_path), spec=SPEC)
    assert found.classes == ("cat", "dog")
    assert len(found.labels) == len(ROWS)
    assert content(found) == set(ROWS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("partition", ["by-client", "by-folder"])
def test_clients_are_nodes_and_the_test_set_is_its_own(
    form: Callable[[Sequence[Row], Path], str], partition: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"name": form(ROWS, tmp_path), "partition": partition}
    config = DataConfig(nodes=3, train_samples=0, **settings)
    found = load_federation(config, 0, SPEC)
    assert found.clients == ("10", "anna", "ben")
    for name, share in zip(found.clients, found.shares, strict=True):
        assert found.images.client is not None
        assert set(found.images.client[share].tolist()) == {name}
        assert len(share) == 4
    assert len(found.test) == 6
    assert not np.isin(found.test, np.concatenate(found.shares)).any()
    fewer = DataConfig(nodes=3, train_samples=0, test_samples=2, **settings)
    assert len(load_federation(fewer, 0, SPEC).test) == 2
    with pytest.raises(ConfigError, match=r"data\.nodes = 4: must be 3, the clients"):
        load_federation(DataConfig(nodes=4, train_samples=0, **settings), 0, SPEC)


@pytest.mark.parametrize(
    ("splits", "training", "test"),
    [
        (["train", "test", "val"], {"train"}, {"test"}),
        (["train", "val"], {"train"}, {"val"}),
        (["train"], {"train"}, set()),
        (["plane", "train"], {"plane", "train"}, set()),
    ],
)
def test_which_folders_are_the_test_set(
    splits: list[str], training: set[str], test: set[str], tmp_path: Path
) -> None:
    rows = [(split, "cat", split, 20 * number) for number, split in enumerate(splits)]
    found = load_set(as_folder(rows, tmp_path), spec=SPEC)
    greys = {split: grey for split, _, _, grey in rows}
    is_test = np.zeros(len(found.labels), bool) if found.is_test is None else found.is_test
    for part, names in ((~is_test, training), (is_test, test)):
        assert set(found.images[part][:, 0, 0, 0].tolist()) == {greys[name] for name in names}
    assert found.classes == (("plane", "train") if "plane" in splits else ("cat",))


def test_what_is_no_picture_or_hidden_is_no_part_of_a_folder(tmp_path: Path) -> None:
    name = as_folder([("train", "cat", "", 1), ("test", "dog", "", 2)], tmp_path)
    for place in ("train/cat/notes.txt", "train/cat/._1.png", ".cache/x.png", "train/.git/x.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path / "train")
    found = load_set(name, spec=SPEC)
    assert (found.classes, found.unreadable, found.client) == (("cat", "dog"), (), None)
    assert len(load_set(f"folder:{tmp_path / 'linked'}", spec=SPEC).labels) == 1


def test_a_path_may_hold_colons_and_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "C:" / "my photos").mkdir(parents=True)
    rows = [row for row in ROWS if row[0] == "train"]
    as_folder(rows, tmp_path / "C:" / "my photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("folder:C:/my photos", "folder:~/C:/my photos"):
        assert len(load_set(name).labels) == len(rows)


def test_files_that_cannot_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    name = as_folder(ROWS, tmp_path)
    broken = sorted(tmp_path.glob("train/*/*/*.png"))[2:9]
    for file in broken:
        file.write_bytes(file.read_bytes()[:40])
    common: dict[str, Any] = {"name": name, "nodes": 2, "train_samples": 0}
    found = load_federation(DataConfig(**common), 0, SPEC)
    assert sorted(u.file for u in found.images.unreadable) == sorted(map(str, broken))
    expected = {row for row in ROWS if not any(file.stem == str(row[3]) for file in broken)}
    assert content(found.images) == expected
    (note,) = found.notes
    assert note.startswith("7 of 18 pictures cannot be read: ")
    assert note.count(".png (") == 5
    assert note.endswith(", and 2 more; left out")
    # Who holds what must not depend on the model's size.
    smaller = load_federation(DataConfig(**common), 0)
    assert all(map(np.array_equal, smaller.shares, found.shares))
    with pytest.raises(ConfigError, match=r"data\.strict = True: 7 of 18 .* and 2 more;") as caught:
        load_federation(DataConfig(strict=True, **common), 0, SPEC)
    assert "\n" not in str(caught.value)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match="18 of 18 pictures cannot be read"):
        load_set(name)


def test_classes_that_no_node_trains_on_are_said() -> None:
    config = DataConfig("digits", partition="classes", classes=1, nodes=3, test_samples=200)
    found = load_federation(DataConfig(**{**vars(config), "train_samples": 0}), 0)
    held = {int(found.images.labels[share[0]]) for share in found.shares}
    lost = int(np.sum(~np.isin(found.images.labels[found.test], list(held))))
    first = [str(digit) for digit in range(10) if digit not in held][:5]
    names = f"{', '.join(first)}, and 2 more"
    note = f"classes that no node trains on: {names} ({lost} of 200 test samples)"
    assert found.notes == [note]
    assert load_federation(DataConfig("digits", test_samples=200), 0).notes == []


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ("cat", ""),
        ("", "line 3: label = '': missing"),
        ("-1", "line 3: label = '-1': must be a whole number from 0"),
        ("1.5", "line 3: label = '1.5': must be a whole number from 0"),
        ("nan", "line 3: label = 'nan': must be a whole number from 0"),
        ("inf", "line 3: label = 'inf': must be a whole number from 0"),
    ],
)
def test_labels_of_a_table_are_texts_or_whole_numbers(
    label: str, line: str, tmp_path: Path
) -> None:
    rows: list[Row] = [("train", text, "", n) for n, text in enumerate(["10", label, "9.0"])]
    name = as_csv(rows, tmp_path)
    if not line:
        assert load_set(name).classes == ("10", "9.0", "cat")
        return
    with pytest.raises(ConfigError) as caught:
        load_set(name)
    assert str(caught.value) == f"{tmp_path / 'table.csv'} {line}"


@pytest.mark.parametrize(
    ("labels", "classes", "line"),
    [
        ([300, 7, 10], ("7", "10", "300"), ""),
        ([True, False, True], ("False", "True"), ""),
        ([2.0, 0.0, 2.0], ("0", "2"), ""),
        ([2.0, None, 2.0], (), "train row 1: label = None: missing"),
        ([2.5, 1.0, 2.0], (), "train row 0: label = 2.5: must be a whole number from 0"),
        ([1, 2, -1], (), "train row 2: label = -1: must be a whole number from 0"),
        ([[1], [2], [3]], (), "train row 0: label = [1]: must be a text, a whole number, or true"),
    ],
)
def test_labels_of_a_saved_set_are_whole_numbers_or_truth_values(
    labels: list[Any], classes: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    rows: list[Row] = [("train", "x", "a", n) for n in range(3)]
    saved(rows, label=labels).save_to_disk(tmp_path / "set")
    if not line:
        found = load_set(f"disk:{tmp_path / 'set'}")
        assert found.classes == classes
        assert [found.classes[label] for label in found.labels] == [
            str(int(label) if isinstance(label, float) else label) for label in labels
        ]
        return
    with pytest.raises(ConfigError) as caught:
        load_set(f"disk:{tmp_path / 'set'}")
    assert str(caught.value).startswith(line)


def test_an_unlabelled_row_of_class_labels_is_refused(tmp_path: Path) -> None:
    made = saved(ROWS[:4])["train"].class_encode_column("label")
    made.map(lambda row, at: {"label": -1 if at == 2 else 0}, with_indices=True).save_to_disk(
        tmp_path / "set"
    )
    with pytest.raises(ConfigError, match=r"train row 2: label = -1: .* number from 0 to 1"):
        load_set(f"disk:{tmp_path / 'set'}")


BAD_TABLES = {
    "path,label\na.png,1\n": "file = None: must have the columns file and label, has path, label",
    "": "= None: must have the columns file and label, has none",
    "file,label\n,1\n": "line 2: file = '': missing",
    "file,label\na.png,1,2\n": "line 2 = ['2']: more values than there are columns",
    "file,label,split\na.png,1,left\n": "line 2: split = 'left': accepted: train, test, val",
    'file,label\n"a.png,1\n': "not a CSV file (unexpected end of data)",
    "file,label\n": "no pictures here",
    f"{','.join(map(str, range(10_000)))}\n": "has 0, 1, 2, 3, 4, and 9995 more",
    "file,label,client\na.png,1," + 201 * "x": "client = str of length 201",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_bad_table_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_set(f"csv:{tmp_path / 'table.csv'}")
    assert BAD_TABLES[text] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "csv", "disk"])
def test_what_is_not_there_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("absent", "empty"):
        name = f"{kind}:{tmp_path / place}"
        with pytest.raises(ConfigError) as caught:
            load_set(name)
        assert str(caught.value).startswith(f"data.name = {name!r}: ")
    with pytest.raises(ConfigError, match=r"^data\.path = .*absent"):
        load_set(f"{kind}:x", str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"label": "kind"}, "needs an Image column and a column label or of ClassLabel, has"),
        ({"train": "a", "test": "b"}, "needs a split train, has a, b"),
    ],
)
def test_a_saved_set_without_what_it_needs_is_refused(
    columns: dict[str, str], line: str, tmp_path: Path
) -> None:
    made = saved(ROWS)
    if "label" in columns:
        made = made.rename_columns(columns)
    else:
        made = datasets.DatasetDict({columns[split]: part for split, part in made.items()})
    made.save_to_disk(tmp_path / "set")
    with pytest.raises(ConfigError, match=line):
        load_set(f"disk:{tmp_path / 'set'}")


def test_clients_must_be_said(tmp_path: Path) -> None:
    partition: dict[str, Any] = {"partition": "by-client", "train_samples": 0}
    with pytest.raises(ConfigError, match=r"data\.partition = 'by-client': digits does not say"):
        load_federation(DataConfig("digits", **partition), 0)
    rows = [*ROWS, ("train", "cat", "", 250)]
    name = as_folder(rows, tmp_path)
    with pytest.raises(ConfigError, match=r"1 training samples of .* have no client"):
        load_federation(DataConfig(name, nodes=3, **partition), 0)
