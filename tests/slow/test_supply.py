"""What is handed on: wheel and sdist are the same bytes twice, the SBOM has what is installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MADE_AT = "1700000000"
NEVER = (".venv/", ".git/", "__pycache__", ".pem", "out/")


def copied(folder: Path, modified_s: int) -> Path:
    """Copy what git knows into a folder, as if all of it had been written at a time."""
    known = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
    for name in filter(None, known):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
            os.utime(folder / name, (modified_s, modified_s))
    return folder


def built(folder: Path) -> dict[str, bytes]:
    """Build sdist and wheel of a copy; returns files by name."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", "dist", "-t", "sdist", "-t", "wheel"],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": MADE_AT},
        check=True,
        capture_output=True,
    )
    return {path.name: path.read_bytes() for path in (folder / "dist").iterdir()}


@pytest.mark.slow
def test_wheel_and_sdist_are_the_same_wherever_and_whenever_they_are_built(tmp_path: Path) -> None:
    one = built(copied(tmp_path / "one", 1_600_000_000))
    two = built(copied(tmp_path / "elsewhere" / "two", 1_650_000_000))
    digests = [{k: hashlib.sha256(v).hexdigest() for k, v in each.items()} for each in (one, two)]
    assert digests[0] == digests[1]
    assert len(one) == 2
    for name in one:
        path = tmp_path / "one" / "dist" / name
        if name.endswith(".whl"):
            with zipfile.ZipFile(path) as wheel:
                inside = wheel.namelist()
        else:
            with tarfile.open(path) as sdist:
                inside = sdist.getnames()
        assert not [each for each in inside if any(word in each for word in NEVER)]
        for file in ("starter/strategy.py.j2", "report/notebook.html.j2", "LICENSE"):
            assert any(each.endswith(file) for each in inside), f"{name} lacks {file}"


@pytest.mark.slow
def test_the_sbom_has_every_dependency_as_it_is_installed(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    # What is installed stays as it is: the SBOM is of that.
    make = ["make", "--silent", "-o", ".venv/installed", "sbom", f"SBOM={file}"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    found = json.loads(file.read_text())
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "mfd-flower",
    )
    components = {canonicalize_name(each["name"]): each for each in found["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        name = canonicalize_name(Requirement(text).name)
        assert components[name]["version"] == version(name)
        assert components[name]["purl"].casefold() == f"pkg:pypi/{name}@{version(name)}".casefold()
