"""The example notebook runs from top to bottom, in a kernel of its own, as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def shown(cell: Any, kind: str) -> str:
    """Return what a cell showed in a MIME type, one part after another."""
    return "".join(str(out.get("data", {}).get(kind, "")) for out in cell.outputs)


@pytest.mark.slow
def test_the_quickstart_runs_as_written(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    measure, tables, figure, predicted = (c for c in notebook.cells if c.cell_type == "code")
    assert not any(out.output_type == "error" for out in measure.outputs)
    assert "<td>mfd-walk</td>" in shown(tables, "text/html")
    assert "wire to target" in shown(tables, "text/html")
    assert shown(figure, "image/png")
    rows = [line for line in shown(predicted, "text/plain").splitlines() if "-is-" in line]
    right = [line for line in rows if line.split("-is-")[1][0] == line.split()[-2]]
    assert (len(rows), len(right) >= 3) == (5, True), rows
    assert (tmp_path / "out" / "quickstart" / "results.json").is_file()
