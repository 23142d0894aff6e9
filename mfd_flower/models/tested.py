"""Which architectures of timm were measured to work, as `experiments/models_table.py` found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTED_FILE = Path(__file__).with_name("tested.json")
WAYS = ("shallow", "deep", "lora", "head", "full")
HEADINGS = ("timm name", "parameters", *WAYS, "split", "difference", "why not")
REFUSED = ("refused", "split_refused")


def tested() -> dict[str, Any]:
    """Return what was measured: command, date, machine, versions, and a row an architecture."""
    return json.loads(TESTED_FILE.read_text(encoding="utf-8"))


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row under `HEADINGS`; the difference is the largest of all ways, whole and split."""
    if "refused" in row:
        return [row["architecture"], "", *(["no"] * len(WAYS)), "no", "", row["refused"]]
    ways = [row["ways"][way] for way in WAYS]
    splits = [way.get("split_refused") for way in ways if "split" in way or "split_refused" in way]
    refused = [
        way[name].partition("; accepted")[0] for way in ways for name in REFUSED if name in way
    ]
    reasons = {reason: None for reason in refused if not reason.startswith("accepted")}
    numbers = [value for way in ways for value in way.values() if not isinstance(value, str)]
    return [
        row["architecture"],
        f"{row['parameters'] / 1e6:.1f} M",
        *("no" if "refused" in way else "yes" for way in ways),
        ("not full" if None in splits else "no") if any(splits) else "yes",
        f"{max(numbers):.0e}",
        "; ".join(reasons),
    ]


def markdown() -> str:
    """Return the table as Markdown."""
    rows = [list(HEADINGS), ["---"] * len(HEADINGS), *map(cells, tested()["rows"])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
