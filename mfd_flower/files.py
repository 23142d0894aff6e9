"""Write files in one step: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, content: str) -> None:
    """Replace a text file."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(content, encoding="utf-8", newline="")
    beside.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(content, indent=1) + "\n")
