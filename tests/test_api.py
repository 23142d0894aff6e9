"""The public names: there, documented, typed, and free until they are used."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mfd_flower

ROOT = Path(__file__).parents[1]
NAMES = sorted({*mfd_flower.__all__} - {"__version__"})


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mfd_flower; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert {"mfd_flower", "sys"} <= set(done.stdout.split()), done.stderr
    assert not {"torch", "flwr", "lightning", "numpy", "pandas"} & set(done.stdout.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_type_checkers_take_it_for(name: str) -> None:
    stub = Path(mfd_flower.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = (node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom))
    (home,) = (node.module for node in imports if name in [alias.name for alias in node.names])
    assert getattr(mfd_flower, name) is getattr(importlib.import_module(str(home)), name)
    assert name in dir(mfd_flower)


def test_the_page_of_the_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: mfd_flower\.(\w+)$", page, flags=re.MULTILINE)) == NAMES


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert mfd_flower.__version__ == project["version"]


def test_other_names_are_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'mfd_flower' has no attribute 'nothing'"):
        _ = mfd_flower.nothing
