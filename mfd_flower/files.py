"""Write files in one step: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from errno import EISDIR
from pathlib import Path
from typing import Any

from mfd_flower.checks import ConfigError

SLUG_CHARS = 100
"""A file's name may have 255 bytes, and words behind this part."""


def slug(words: str) -> str:
    """Return the beginning of words as part of a file's name: letters, digits, dots, hyphens."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip(".-")[:SLUG_CHARS].rstrip(".-")


def unique_slug(words: str) -> str:
    """Return words as part of a file's name, with a digest of them if they cannot stand as are."""
    if (found := slug(words)) == words != "":
        return found
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, (found, digest)))


def check_writable(option: str, path: Path | None) -> None:
    """Raise ConfigError if a file cannot be written there; what is there stays as it is."""
    if path is None:
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "is a folder")
        # Where a file is written first: a link that leads nowhere would be followed.
        beside = _beside(path)
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise ConfigError(option, str(path), f"not writable ({error.strerror})") from error


def write_text(path: Path, content: str) -> None:
    """Replace a text file; what is no character, in a file's name for instance, is escaped."""
    _replace(path, content.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file of bytes; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    beside = _beside(path)
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file, strictly as `to_json` writes it."""
    write_text(path, to_json(content) + "\n")


def to_json(content: Any) -> str:
    """Return strict JSON: a float that is no number (NaN, infinity) becomes null."""
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
