"""What a node's work on one message costs, noted where the work is done."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class CostReport:
    """What the fits of one message cost."""

    fits: int = 0
    flops: float = 0.0
    peak_bytes: int = 0


current_report: ContextVar[CostReport | None] = ContextVar("current_report", default=None)


def report_flops(flops: float) -> None:
    """Add operations to what the message under way costs."""
    if (report := current_report.get()) is not None:
        report.flops += flops
