"""Find strategies, and traits of the walk, by name.

A short name is looked for in `./strategies/<name>.py` where the command runs, then among the entry
points of installed packages (group ``mfd_flower.strategies``), then in our own `strategies`. For
traits these are `./traits`, ``mfd_flower.traits`` and `mfd_flower.walk.traits`. A file is called as
its class is, in any case: `half_avg.py` holds `HalfAvg`, and the short name is `half-avg`. A long
name is ``package.module:Class``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from mfd_flower.checks import ConfigError, Form

ROOT = Path(__file__).resolve().parents[1]
"""Where `mfd_flower` and `strategies` lie side by side: checkout, site-packages or app bundle."""
LONG_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


PACKAGES = {"strategy": "strategies", "trait": "mfd_flower.walk.traits"}
"""Our own package of each kind; entry points are called as its last part is."""
FOLDERS = {kind: package.rpartition(".")[2] for kind, package in PACKAGES.items()}
"""Folder of each kind where the command runs."""
SHORT_NAME = Form(
    r"(?=.{1,60}\Z)(?!(?:true|false|none)\Z)[a-z][a-z0-9]*(-[a-z0-9]+)*",
    "up to 60 small letters, digits and single hyphens, as half-avg; not true, false, none",
)
"""Of a new strategy or trait. `class_name` makes a name for its class of it, `file_name` for its
file; `True` and its like can be no class."""


@dataclass(frozen=True)
class Source:
    """What a name stands for."""

    origin: str
    """``here``, ``built in``, or the name of an installed package or module."""
    target: Path | str
    """A file, or a long name."""


@dataclass(frozen=True)
class Found:
    """A class and where it comes from."""

    cls: type
    origin: str
    """As `Source` has it."""
    file: Path
    """The file that was looked into: for `fedavg` our `fedavg.py`, not Flower's."""


def sources(kind: str) -> dict[str, Source]:
    """Return the short names of a kind, "strategy" or "trait", each with the first place."""
    here, ours = Path.cwd() / FOLDERS[kind], ROOT.joinpath(*PACKAGES[kind].split("."))
    found = _files(ours, "built in")
    for point in entry_points(group=f"mfd_flower.{FOLDERS[kind]}"):
        origin = point.dist.name if point.dist else point.module
        found[point.name.replace("_", "-")] = Source(origin, f"{point.module}:{point.attr}")
    if here.resolve() != ours:
        found |= _files(here, "here")
    return dict(sorted(found.items()))


def class_name(name: str) -> str:
    """Return what the class is called that a short name stands for."""
    return "".join(part.capitalize() for part in name.split("-"))


def file_name(name: str) -> str:
    """Return what the file is called that a short name stands for."""
    return f"{name.replace('-', '_')}.py"


def find(kind: str, name: str, base: type) -> Found:
    """Return the subclass of `base` that a short or long name means.

    Like an import this is done once a process, for each working directory: what changes in a file
    later is not seen.

    Raises
    ------
    ConfigError
        If there is no such name, its module cannot be imported, or holds no such class.
    """
    return _find(kind, name, base, Path.cwd())


@functools.lru_cache(maxsize=256)
def _find(kind: str, name: str, base: type, folder: Path) -> Found:
    known = sources(kind)
    source = known.get(name)
    if source is None:
        if not LONG_NAME.fullmatch(name):
            accepted = f"accepted: {', '.join(known) or 'none'} or package.module:Class"
            raise ConfigError(kind, name, accepted)
        if str(folder) not in sys.path:
            # A command does not have the working directory on sys.path as python -m does.
            sys.path.append(str(folder))
        source = Source(name.partition(":")[0], name)
    target = source.target
    try:
        file, classes = _looked_up(target, PACKAGES[kind])
    except Exception as error:
        raise ConfigError(kind, name, f"module not importable ({_line(error, target)})") from error
    for found in classes:
        if inspect.isclass(found) and issubclass(found, base):
            return Found(found, source.origin, file)
    raise ConfigError(kind, name, f"{target} holds no {base.__name__} class of that name")


def _looked_up(target: Path | str, package: str) -> tuple[Path, list[Any]]:
    if isinstance(target, Path):
        flat = target.stem.replace("_", "").replace("-", "").lower()
        names = vars(_module_of(target, package))
        return target, [value for name, value in names.items() if name.lower() == flat]
    module_name, _, class_name = target.partition(":")
    module = importlib.import_module(module_name)
    file = getattr(module, "__file__", None) or module_name
    return Path(file), [getattr(module, class_name, None)]


def _files(folder: Path, origin: str) -> dict[str, Source]:
    files = (file for file in folder.glob("*.py") if not file.name.startswith("_"))
    return {file.stem.replace("_", "-"): Source(origin, file) for file in files}


def _module_of(file: Path, package: str) -> ModuleType:
    """Import a file as the module of `package` that it is, else under a name of its own."""
    canonical = f"{package}.{file.stem}"
    try:
        spec = importlib.util.find_spec(canonical)
    except Exception:  # Whatever a foreign package of that name does when it is imported.
        spec = None
    if spec is not None and spec.origin and Path(spec.origin).resolve() == file.resolve():
        return importlib.import_module(canonical)
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    name = f"mfd_{package.rpartition('.')[2]}_{place}_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _line(error: Exception, target: Path | str) -> str:
    """Say what was raised, and in which line of the file that was looked into."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(target)]
    return f"{said}, {target}, line {frames[-1].lineno}" if frames else said
