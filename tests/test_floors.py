"""Versions that the package asks for are not older than what it was seen to work with."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TRIED_OLDER = {"torch", "torchvision"}
"""torch 2.11 ran experiments/gpu_check.py; torchvision goes with torch."""


def test_floors_are_minor_versions_that_the_tests_ran_with() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    ran = dict(line.split("==") for line in lines if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        needed = Requirement(text)
        (floor,) = (each.version for each in needed.specifier if each.operator == ">=")
        tried = Version({name.lower(): each for name, each in ran.items()}[needed.name])
        assert needed.specifier.contains(tried), text
        if needed.name not in TRIED_OLDER:
            assert Version(floor).release[:2] == tried.release[: len(Version(floor).release)][:2]
        if needed.name == "timm":  # 1.0.26 passes `model.pooling` by for some architectures.
            assert Version(floor) >= Version("1.0.31")
