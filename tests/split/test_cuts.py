"""Cut planning against all plans there are, and cases worked out by hand."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.split.cuts import plan_cuts

NAN = math.nan


@st.composite
def instances(draw: st.DrawFn) -> dict:
    """Return up to 7 blocks on up to 4 workers; whole numbers, so that ties are frequent."""
    blocks = draw(st.integers(1, 7))
    workers = draw(st.integers(1, min(4, blocks)))
    small = st.integers(0, 5)

    def some(count: int, values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=count, max_size=count))

    instance: dict = {
        "costs": some(blocks, small),
        "speeds": some(workers, st.sampled_from([1, 2, 4])),
    }
    if draw(st.booleans()):
        instance |= {"memory": some(blocks, small), "limits": some(workers, st.integers(0, 12))}
    if draw(st.booleans()):
        instance |= {
            "cut_bytes": some(blocks - 1, small),
            "link_bps": some(workers - 1, st.sampled_from([4, 8, 16])),
        }
    return instance


def stages_and_links(
    cuts: tuple[int, ...],
    costs: list[int],
    speeds: list[int],
    memory: list[int] | None = None,
    limits: list[int] | None = None,
    cut_bytes: list[int] | None = None,
    link_bps: list[int] | None = None,
) -> list[float] | None:
    """Return the seconds of each stage and link, block by block; None if a stage does not fit."""
    seconds, held, worker = [0.0], 0, 0
    for block, cost in enumerate(costs):
        if block in cuts:
            if cut_bytes and link_bps:
                seconds.insert(0, cut_bytes[block - 1] * 8 / link_bps[worker])
            seconds.append(0.0)
            worker, held = worker + 1, 0
        seconds[-1] += cost / speeds[worker]
        held += memory[block] if memory else 0
        if limits and held > limits[worker]:
            return None
    return seconds


def all_plans(instance: dict) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    blocks, workers = len(instance["costs"]), len(instance["speeds"])
    for cuts in itertools.combinations(range(1, blocks), workers - 1):
        if (seconds := stages_and_links(cuts, **instance)) is not None:
            yield cuts, seconds


@settings(max_examples=200, deadline=None)
@given(instances())
def test_no_plan_is_better(instance: dict) -> None:
    """Slowest first, then the sum, then the earliest cuts from the last one on."""
    plans = [(max(s), sum(s), cuts[::-1]) for cuts, s in all_plans(instance)]
    if not plans:
        with pytest.raises(ConfigError, match=r"^limits"):
            plan_cuts(**instance)
        return
    assert tuple(plan_cuts(**instance)) == min(plans)[2][::-1]


@settings(max_examples=300, deadline=None)
@given(instances())
def test_a_refusal_names_a_limit_whose_rise_alone_helps(instance: dict) -> None:
    """With the bytes it asks for, the named worker is no longer the one that is short."""
    short = short_worker(instance)
    if short is None:
        return
    worker, has, needs = short
    assert instance["limits"][worker] == has < needs
    raised = [*instance["limits"]]
    raised[worker] = needs
    later = short_worker({**instance, "limits": raised})
    assert later is None or later[0] > worker


def short_worker(instance: dict) -> tuple[int, int, int] | None:
    """Return which worker is refused, what it has and what it needs; None if none is named."""
    try:
        plan_cuts(**instance)
    except ConfigError as error:
        form = r"limits\[(\d+)\] = (\d+).0: worker \1 needs (\d+) bytes or more"
        found = re.match(form, str(error))
        return found and tuple(map(int, found.groups()))  # type: ignore[return-value]
    return None


def test_twelve_like_blocks_by_hand() -> None:
    """Speeds 1, 2 and 3 take 2, 4 and 6 blocks, 2 seconds each."""
    assert plan_cuts([1] * 12, [1, 2, 3]) == [2, 6]


def test_memory_moves_a_cut() -> None:
    """The first worker has room for one block, however fast it is."""
    assert plan_cuts([1] * 4, [100, 1], [10] * 4, [10, math.inf]) == [1]


def test_a_thin_cut_is_preferred_where_links_are_slow() -> None:
    """Only the cut before block 3 carries less than the 4 seconds that the fifth block costs."""
    cuts = plan_cuts([1] * 4, [1, 1], cut_bytes=[100, 100, 1], link_bps=[8])
    assert cuts == [3]
    assert stages_and_links((3,), [1] * 4, [1, 1], None, None, [100, 100, 1], [8]) == [1, 3, 1]


def test_fast_links_change_nothing() -> None:
    costs, speeds = [3, 1, 4, 1, 5, 9, 2, 6], [1, 2, 1]
    free = plan_cuts(costs, speeds)
    assert plan_cuts(costs, speeds, cut_bytes=[1] * 7, link_bps=[1e15] * 2) == free


def test_one_worker_needs_no_cut() -> None:
    assert plan_cuts([1, 2], [1]) == []


def test_a_slow_stage_that_must_be_leaves_the_rest_to_the_fastest() -> None:
    """The slow first worker sets the step; of the others, the fast one takes what it can."""
    assert plan_cuts([1] * 8, [0.1, 1, 4]) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"costs": []}, "costs = []: one or more blocks"),
        ({"costs": [1, NAN]}, "costs[1] = nan: must be finite and at least 0"),
        ({"costs": [1, -2]}, "costs[1] = -2: must be finite and at least 0"),
        ({"speeds": []}, "speeds = []: 1 to 2 workers, at most one a block"),
        ({"speeds": [1, 1, 1]}, "speeds = [1, 1, 1]: 1 to 2 workers, at most one a block"),
        ({"speeds": [1, 0]}, "speeds[1] = 0: must be finite and above 0"),
        ({"memory": [1, 1]}, "limits = None: memory and limits are given both or neither"),
        ({"memory": [1], "limits": [1, 1]}, "memory = [1]: 2 numbers, not 1"),
        ({"memory": [1, 1], "limits": [1]}, "limits = [1]: 2 numbers, not 1"),
        ({"cut_bytes": [1]}, "link_bps = None: cut_bytes and link_bps are given both or neither"),
        ({"cut_bytes": [1], "link_bps": [0]}, "link_bps[0] = 0: must be finite and above 0"),
        (
            {"memory": [6, 6], "limits": [6, 5]},
            "limits = [6.0, 5.0]: all blocks need 12 bytes, not 11",
        ),
        (
            {"memory": [6, 6], "limits": [5, 20]},
            "limits[0] = 5.0: worker 0 needs 6 bytes or more, whatever those before it hold",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_cuts(**({"costs": [1, 2], "speeds": [1, 1]} | arguments))
    assert str(error.value) == message


def test_a_thousand_blocks_on_64_workers() -> None:
    """Costs alike: 1000 = 40 * 16 + 24 * 15, so no worker has more than 16."""
    cuts = plan_cuts([1] * 1000, [1] * 64)
    assert max(end - start for start, end in itertools.pairwise([0, *cuts, 1000])) == 16
