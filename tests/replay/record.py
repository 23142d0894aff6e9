"""Write ``expected.json`` anew: ``python -m tests.replay.record [part of a cell's name ...]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.replay.cells import CELLS
from tests.replay.measure import measure

EXPECTED = Path(__file__).with_name("expected.json")


def main(parts: list[str]) -> None:
    """Measure the cells that the words name, all without any, and keep the others."""
    known = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.exists() else {}
    cells = {}
    for name, cell in CELLS.items():
        wanted = not parts or any(part in name for part in parts)
        cells[name] = measure(cell) if wanted else known[name]
    lines = [f"{json.dumps(name)}:{json.dumps(found)}" for name, found in cells.items()]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
