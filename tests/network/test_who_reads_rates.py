"""Rates, latency and devices are asked of a `World`; only it reads them from the settings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
READ = re.compile(
    r"network\.(up_bps|down_bps|d2d_bps|backhaul_bps|latency_s|flops_per_s|joules_per_\w+)"
)


def test_nobody_else_reads_them() -> None:
    files = [*ROOT.glob("mfd_flower/**/*.py"), *ROOT.glob("strategies/*.py")]
    assert len(files) > 50
    readers = {
        str(file.relative_to(ROOT))
        for file in files
        if file.parent.name != "network" and READ.search(file.read_text(encoding="utf-8"))
    }
    assert not readers
