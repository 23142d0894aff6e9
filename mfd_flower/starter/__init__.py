"""What a strategy or trait of one's own begins with: a file that works as written, and its test."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mfd_flower.checks import ConfigError
from mfd_flower.finding import FOLDERS, SHORT_NAME, class_name, file_name, sources

TEMPLATES = Environment(
    loader=PackageLoader("mfd_flower.starter", "."),
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)


def write_start(kind: str, name: str) -> list[Path]:
    """Write the file of a new strategy or trait, and its test, where the command runs.

    Parameters
    ----------
    kind
        "strategy" or "trait".
    name
        Its short name, as a TOML file will say it.

    Returns
    -------
    list of Path
        Both files, relative to the working directory.

    Raises
    ------
    ConfigError
        If the name cannot be found again, is taken, or a file cannot be written; then none is.
    """
    SHORT_NAME.check("NAME", name)
    if (known := sources(kind).get(name)) is not None:
        raise ConfigError("NAME", name, f"the {kind} is there already ({known.origin})")
    words = {"name": name, "cls": class_name(name), "file": file_name(name)}
    code = TEMPLATES.get_template(f"{kind}.py.j2").render(words)
    if words["cls"] in set(_imported(code)):
        hides = f"its class {words['cls']} would hide what the file imports under this name"
        raise ConfigError("NAME", name, hides)
    file = Path(FOLDERS[kind], file_name(name))
    test = Path("tests", f"test_{file_name(name)}")
    _write_all(name, {file: code, test: TEMPLATES.get_template(f"test_{kind}.py.j2").render(words)})
    return [file, test]


def _imported(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)


def _write_all(name: str, files: Mapping[Path, str]) -> None:
    """Write new files, all or none; folders that are not there are made."""
    with _undone_if_it_fails() as made:
        for path, text in files.items():
            try:
                if not path.parent.exists():
                    path.parent.mkdir()
                    made.append(path.parent)
                with path.open("x", encoding="utf-8") as file:
                    made.append(path)
                    file.write(text)
            except FileExistsError:
                raise ConfigError("NAME", name, f"{path} is there already") from None
            except OSError as error:
                said = f"{path} cannot be written ({error.strerror})"
                raise ConfigError("NAME", name, said) from error


@contextmanager
def _undone_if_it_fails() -> Iterator[list[Path]]:
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            os.rmdir(path) if path.is_dir() else os.unlink(path)
        raise
