"""Where to cut a model for workers in a row, so that the slowest stage is as fast as can be.

GaisNet's first decision, "how to split" (arXiv 2401.02668, section IV): how many parts, and where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError

Numbers = NDArray[np.float64]
Blocks = tuple[Numbers, Numbers, Numbers]
"""FLOPs and bytes of each block, ``(blocks,)``, and bytes over each cut, ``(blocks - 1,)``."""
Workers = tuple[Numbers, Numbers, Numbers]
"""Of rows of workers FLOPs per second and bytes at most, ``(rows, workers)``, and bits per second
of the links between them, ``(rows, workers - 1)``."""


def plan_cuts(
    costs: Sequence[float],
    speeds: Sequence[float],
    memory: Sequence[float] | None = None,
    limits: Sequence[float] | None = None,
    *,
    cut_bytes: Sequence[float] | None = None,
    link_bps: Sequence[float] | None = None,
) -> list[int]:
    r"""Give each worker consecutive blocks, so that the pipeline's step is as short as can be.

    .. math::

        T = \max\Big(\max_w \frac{\sum_{b \in w} \mathit{cost}_b}{\mathit{speed}_w},\;
                     \max_c \frac{8\,\mathit{cut\_bytes}_c}{\mathit{link\_bps}_c}\Big)

    A link is a pipeline stage of its own: while it carries one micro-batch, the workers at both
    ends compute on others. With :math:`m` micro-batches and all stages as slow as the slowest, a
    step takes :math:`(m + s - 1) / m \cdot T` seconds.

    The plan is exact, by dynamic programming over workers and blocks (the recurrence of Narayanan
    et al. 2019, *PipeDream*, arXiv 1806.03377, section 3.1). Of the plans with the least :math:`T`,
    it is one whose stages and links take the fewest seconds in all (what a lone sample takes from
    end to end); of those, the one with the earliest last cut, then the earliest before it.

    Returns ``len(speeds) - 1`` rising block indices: cut c has blocks up to c - 1 before it.
    ConfigError if a number is out of range, a length does not fit, or no plan keeps to the limits.

    Parameters
    ----------
    costs : sequence of float
        FLOPs of a step in each block, in order; the embedding's belong to the first block's, the
        head's to the last one's.
    speeds : sequence of float
        FLOPs per second of each worker, in order. At most as many as blocks: each gets one or more.
    memory, limits : sequence of float, optional
        Bytes that each block needs, and that each worker has, which may be infinite; both or
        neither.
    cut_bytes : sequence of float, optional
        Bytes that a step sends over the cut after each block but the last, in the direction that
        takes longer; ``len(costs) - 1`` of them.
    link_bps : sequence of float, optional
        Bits per second between consecutive workers, ``len(speeds) - 1`` of them; with `cut_bytes`.
    """
    model = block_numbers(costs, memory, cut_bytes)
    blocks, workers = len(costs), len(speeds)
    if not 1 <= workers <= blocks:
        raise ConfigError("speeds", list(speeds), f"1 to {blocks} workers, at most one a block")
    if (memory is None) != (limits is None):
        raise ConfigError("limits", limits, "memory and limits are given both or neither")
    if (cut_bytes is None) != (link_bps is None):
        raise ConfigError("link_bps", link_bps, "cut_bytes and link_bps are given both or neither")
    row = (
        _row("speeds", speeds, workers, above_zero=True),
        _row("limits", limits, workers, finite=False),
        _row("link_bps", link_bps, workers - 1, above_zero=True),
    )
    found = reach(model, row)
    step_s = found[-1][0, -1]
    if math.isinf(step_s):
        raise _over_limit(found, model[1], row[1])
    return _traced(reach(model, row, np.add, step_s), model, row, step_s)


def block_numbers(
    costs: Sequence[float], memory: Sequence[float] | None, cut_bytes: Sequence[float] | None
) -> Blocks:
    """Return costs, memory and cut bytes of a model's blocks as arrays, zeros for what is None."""
    blocks = len(costs)
    if not blocks:
        raise ConfigError("costs", list(costs), "one or more blocks")
    return (
        numbers("costs", costs, blocks),
        numbers("memory", np.zeros(blocks) if memory is None else memory, blocks),
        numbers("cut_bytes", np.zeros(blocks - 1) if cut_bytes is None else cut_bytes, blocks - 1),
    )


def numbers(
    name: str, values: Any, count: int, *, above_zero: bool = False, finite: bool = True
) -> Numbers:
    """Return `count` numbers, none of them negative, as an array; or say which is not."""
    if len(values) != count:
        raise ConfigError(name, list(values), f"{count} numbers, not {len(values)}")
    for index, value in enumerate(values):
        if not value >= 0 or (finite and math.isinf(value)) or (above_zero and value == 0):
            accepted = f"{'finite and ' * finite}{'above' if above_zero else 'at least'} 0"
            raise ConfigError(f"{name}[{index}]", value, f"must be {accepted}")
    return np.array(values, dtype=float)


def reach(
    model: Blocks, row: Workers, combine: np.ufunc = np.maximum, longest_s: float = math.inf
) -> list[Numbers]:
    """Find how fast the first workers of many rows can do the first blocks.

    Returns ``workers + 1`` tables ``(rows, blocks - workers + 1)``. Column p of table w holds the
    fewest seconds until worker w, whose first block is w + p, has its input; infinite where the
    workers before it cannot. The last table's last column is for the whole model.

    `combine` is ``np.maximum`` for the slowest stage or link, ``np.add`` for the sum of them all;
    none may take longer than `longest_s`.
    """
    (costs, memory, cut_bytes), (speeds, limits, link_bps) = model, row
    rows, workers = speeds.shape
    room = len(costs) - workers + 1
    flops, held = _spans(costs), _spans(memory)
    reached = np.full((rows, room), np.inf)
    reached[:, 0] = 0
    tables = [reached]
    for worker in range(workers):
        window = _window(worker, room)
        seconds = flops[window] / speeds[:, worker, None, None]
        fits = (held[window] <= limits[:, worker, None, None]) & (seconds <= longest_s)
        seconds[~fits] = np.inf
        reached = combine(reached[:, :, None], seconds, out=seconds).min(axis=1)
        if worker < workers - 1:
            sent_s = 8 * cut_bytes[worker : worker + room] / link_bps[:, worker, None]
            reached = combine(reached, np.where(sent_s <= longest_s, sent_s, np.inf))
        tables.append(reached)
    return tables


def _row(name: str, values: Sequence[float] | None, count: int, **bounds: bool) -> Numbers:
    """Return one row as `reach` takes it, ``(1, count)``; what is None does not limit."""
    if values is None:
        return np.full((1, count), np.inf)
    return numbers(name, values, count, **bounds)[None]


def _spans(values: Numbers) -> Numbers:
    """Return the sums of blocks i to j - 1 at [i, j], infinite where there is no block."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.where(np.tri(len(sums), dtype=bool), np.inf, sums[None, :] - sums[:, None])


def _window(worker: int, room: int) -> tuple[slice, slice]:
    """Return the first and the end blocks that leave every other worker at least one."""
    return slice(worker, worker + room), slice(worker + 1, worker + 1 + room)


def _traced(tables: list[Numbers], model: Blocks, row: Workers, longest_s: float) -> list[int]:
    """Follow the tables of sums back from the last worker; the first of equals is taken."""
    (costs, memory, _), (speeds, limits, _) = model, row
    room = len(costs) - len(tables) + 2
    flops, held = _spans(costs), _spans(memory)
    cuts: list[int] = []
    end = room - 1
    for worker in range(len(tables) - 2, 0, -1):
        window = _window(worker, room)
        seconds = flops[window][:, end] / speeds[0, worker]
        fits = (held[window][:, end] <= limits[0, worker]) & (seconds <= longest_s)
        end = int(np.argmin(tables[worker][0] + np.where(fits, seconds, np.inf)))
        cuts.append(worker + end)
    return cuts[::-1]


def _over_limit(tables: list[Numbers], memory: Numbers, limits: Numbers) -> ConfigError:
    """Name the first worker that no plan can serve: what it needs at the least, what it has."""
    has = [float(limit) for limit in limits[0]]
    if (total := float(memory.sum())) > sum(has):
        return ConfigError("limits", has, f"all blocks need {total:.0f} bytes, not {sum(has):.0f}")
    workers, room = len(has), tables[0].shape[1]
    last = workers - 1
    stuck = next((w for w in range(last) if np.isinf(tables[w + 1]).all()), last)
    starts = np.isfinite(tables[stuck][0])
    needs = _spans(memory)[_window(stuck, room)][starts]
    least = float((needs[:, -1] if stuck == last else needs).min())
    accepted = f"worker {stuck} needs {least:.0f} bytes or more, whatever those before it hold"
    return ConfigError(f"limits[{stuck}]", has[stuck], accepted)
