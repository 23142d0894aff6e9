"""A name means the nearest thing that has it: here, installed, ours; and never a path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.serverapp.strategy import Strategy

import strategies.fedavg
import strategies.mfd_walk
from mfd_flower.checks import ConfigError
from mfd_flower.finding import find
from mfd_flower.strategy import find_strategy, source_of
from mfd_flower.walk.traits import read_traits

ROOT = Path(__file__).parents[1]
Write = Callable[[str, str], Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Change to an empty folder; returns a function that writes a file there."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def write(name: str, text: str) -> Path:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution that offers two strategies, one of them called fedavg, and a trait."""
    site = tmp_path / "site"
    info = site / "foreign-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[mfd_flower.strategies]\n"
        "fedavg = foreign_module:Theirs\n"
        "two_words = foreign_module:Theirs\n"
        "[mfd_flower.traits]\n"
        "slow = foreign_module:Slow\n"
    )
    (site / "foreign_module.py").write_text("class Theirs: ...\nclass Slow: ...\n")
    monkeypatch.syspath_prepend(str(site))


def test_the_nearest_of_three_places_has_the_name(
    here: Write, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("strategy", "mfd-walk", object).origin == "built in"
    theirs = find("strategy", "fedavg", object)
    assert (theirs.origin, theirs.cls.__name__) == ("foreign", "Theirs")
    assert find("strategy", "two-words", object).cls is theirs.cls
    assert find("trait", "slow", object).origin == "foreign"
    file = here("nearer/strategies/fedavg.py", "class FedAvg: ...")
    monkeypatch.chdir(file.parents[1])
    nearest = find("strategy", "fedavg", object)
    assert (nearest.origin, nearest.file) == ("here", file)


def test_ours_are_ordinary_modules_here_and_elsewhere(
    here: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert find_strategy("mfd-walk") is strategies.mfd_walk.MFDWalk
        assert source_of("fedavg") == Path(strategies.fedavg.__file__)
        monkeypatch.chdir(ROOT)


def test_another_package_called_strategies_hides_neither_ours_nor_the_local_file(
    here: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign" / "strategies"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").touch()
    for name in ("half_avg", "local_only"):
        (foreign / f"{name}.py").write_text("class HalfAvg: theirs = 1\nclass LocalOnly: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path / "foreign"))
    for name in [n for n in sys.modules if n.partition(".")[0] == "strategies"]:
        monkeypatch.delitem(sys.modules, name)
    here("strategies/half_avg.py", "class HalfAvg: theirs = 0")
    assert find("strategy", "half-avg", object).cls.theirs == 0
    assert source_of("local-only") == ROOT / "strategies" / "local_only.py"
    assert issubclass(find_strategy("local-only"), Strategy)


def test_a_local_file_is_found_again_in_each_folder_and_leaves_the_path_alone(
    here: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here("strategies/twice.py", "class Twice: number = 1")
    before = list(sys.path)
    first = find("strategy", "twice", object).cls
    assert sys.modules[first.__module__].Twice is first
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "twice.py").write_text("class Twice: number = 2")
    monkeypatch.chdir(tmp_path)
    assert find("strategy", "twice", object).cls.number == 2
    monkeypatch.chdir(tmp_path / "here")
    assert find("strategy", "twice", object).cls is first
    assert sys.path == before


@pytest.mark.parametrize(
    "name",
    [
        *("", "..", "../twice", "../strategies/twice", "/etc/passwd", "a/b", "a\\b", "twice.py"),
        *("_hidden", "Twice\n", "a b:C", "os.path", "./a:B", "a..b:C", "a:b.c", ":C", "a:"),
    ],
)
def test_what_is_no_name_is_refused_with_the_names_that_are(
    here: Write, installed: None, name: str
) -> None:
    here("strategies/twice.py", "class Twice: ...")
    here("strategies/_hidden.py", "raise AssertionError")
    here("twice.py", "raise AssertionError")
    with pytest.raises(ConfigError) as refused:
        find("strategy", name, object)
    said = str(refused.value)
    ours = (
        "centralised, class-means, cloud-edge, exact-walk, fedavg, fedavg-deadline, fedbuff, "
        "fedcof, fedmd, fedproto, generator, gossip, heterofl, hfsl, local-only, mfd-walk, ridge"
    )
    assert f"accepted: {ours}, twice, two-words" in said
    assert said.endswith("or package.module:Class")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        ("x = 1\ny = 1 / 0", "division by zero, {file}, line 2"),
        ("class Odd(:", "invalid syntax"),
        ("class Other: ...", "holds no Strategy class of that name"),
        ("class Odd: ...", "holds no Strategy class of that name"),
        ("Odd = 3", "holds no Strategy class of that name"),
    ],
)
def test_a_file_that_is_no_strategy_is_refused_in_one_line(
    here: Write, text: str, said: str
) -> None:
    file = here("strategies/odd.py", text)
    for _ in range(2):
        with pytest.raises(ConfigError) as refused:
            find_strategy("odd")
        assert said.format(file=file) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_trait_of_the_working_directory_joins_a_walk(here: Write) -> None:
    here(
        "traits/slow_down.py",
        "from dataclasses import dataclass\n"
        "from mfd_flower.walk.trait import Trait\n"
        "@dataclass(frozen=True)\n"
        "class SlowDown(Trait):\n"
        "    share: float = 1.0\n",
    )
    codec, slow_down = read_traits({"slow-down": {"share": 0.25}})
    assert type(codec).__name__ == "Codec"
    assert vars(slow_down) == {"share": 0.25}
    refused = "trait = 'slow': accepted: admission, .*, slow-down, teach, terms or package"
    with pytest.raises(ConfigError, match=refused):
        read_traits({"slow": {}})


def test_a_long_name_is_imported_from_the_working_directory_too(
    here: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = here("own_module_of_mine.py", "class Own: ...")
    found = find("strategy", "own_module_of_mine:Own", object)
    assert (found.origin, found.file) == ("own_module_of_mine", file)
