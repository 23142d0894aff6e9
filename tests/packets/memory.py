"""Count the memory that a piece of work takes, where Python or torch gives it out."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def python_peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python objects and buffers held during `work`."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def torch_allocated(work: Callable[[], object]) -> int:
    """Return all bytes that torch's own allocator gave out during `work`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    return sum(max(0, event.self_cpu_memory_usage) for event in seen.events())
