"""What runs counted and learnt before a change they count and learn after it.

A change that means to move a number says so and writes ``expected.json`` anew:
``python -m tests.replay.record``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.replay.cells import CELLS
from tests.replay.measure import measure

EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))
SAMPLES = 100
"""Of the test set: processors that round differently may answer one of them differently."""
COUNTED = ("visits", "sources", "failures", "wire_by_type", "entries", "steps", "updates", "bytes")
FOLLOWING = ("virtual_seconds", "joules", "flops", "peak_node_bytes")


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_counts_and_learns_what_it_did(name: str) -> None:
    found, expected = json.loads(json.dumps(measure(CELLS[name]))), EXPECTED[name]
    for kind in COUNTED:
        assert found[kind] == expected[kind], kind
    for kind in FOLLOWING:
        assert found[kind] == pytest.approx(expected[kind], rel=1e-6), kind
    assert found["accuracies"] == pytest.approx(expected["accuracies"], abs=1.01 / SAMPLES)
    assert found["model"].keys() == expected["model"].keys()
    for tensor, (norm, *projections) in expected["model"].items():
        assert found["model"][tensor] == pytest.approx([norm, *projections], abs=1e-3 * norm)
    _compare_served(found.get("served", []), expected.get("served", []))


def _compare_served(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["accuracy"] == pytest.approx(theirs.pop("accuracy"), abs=0.051)
        for kind, value in theirs.items():
            if not isinstance(value, str):
                assert ours[kind] == pytest.approx(value, rel=1e-6), kind


def test_no_cell_is_forgotten() -> None:
    assert EXPECTED.keys() == CELLS.keys()
