"""A transfer takes its latency and then as long as its bits need at the rates of the world."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mfd_flower.config import NetworkConfig
from mfd_flower.network.clock import Clock, UnreachableError, transfer_s
from mfd_flower.network.world import Transfer, World

HOP = Transfer("n0", "n1", "d2d")


class SteppedWorld(World):
    """One rate for all links, which changes at given times."""

    def __init__(self, steps: Sequence[tuple[float, float]], latency_s: float = 0.0) -> None:
        super().__init__(NetworkConfig(latency_s=latency_s), 2)
        self.steps = steps

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        now = [rate for since, rate in self.steps if since <= at_s][-1]
        return np.full(len(transfers), now)

    def next_change_s(self, at_s: float) -> float:
        return min((since for since, _ in self.steps if since > at_s), default=math.inf)


@pytest.mark.parametrize(
    ("at_s", "size_bytes", "expected_s"),
    [
        # 8 bits in the first second, two seconds out of reach, 32 bits at 16 bit/s.
        (0.0, 5, 1 + 2 + 2),
        (0.0, 1, 1.0),
        (0.5, 1, 0.5 + 2 + 0.25),
        (2.0, 1, 1 + 0.5),
        (7.0, 4, 2.0),
    ],
)
def test_bits_sent_by_hand(at_s: float, size_bytes: int, expected_s: float) -> None:
    steps = [(0.0, 8.0), (1.0, 0.0), (3.0, 16.0)]
    assert transfer_s(SteppedWorld(steps), HOP, size_bytes, at_s) == expected_s
    late = SteppedWorld(steps, latency_s=0.25)
    assert transfer_s(late, HOP, size_bytes, at_s) == expected_s + 0.25


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.sampled_from([0.0, 3.0, 50.0, 1e4])), max_size=8),
    st.integers(0, 2000),
    st.floats(0, 20),
)
def test_the_rate_over_the_time_taken_adds_up_to_the_bits(
    pieces: list[tuple[float, float]], size_bytes: int, at_s: float
) -> None:
    begins = itertools.accumulate([0.0, *(seconds for seconds, _ in pieces)])
    steps = list(zip(begins, [*(rate for _, rate in pieces), 100.0], strict=True))
    end_s = at_s + transfer_s(SteppedWorld(steps), HOP, size_bytes, at_s)
    ends = [*(since for since, _ in steps[1:]), math.inf]
    sent = sum(
        rate * max(0.0, min(end_s, end) - max(at_s, since))
        for (since, rate), end in zip(steps, ends, strict=True)
    )
    assert sent == pytest.approx(8 * size_bytes, rel=1e-6, abs=1e-6)


def test_a_link_that_stays_dead_is_refused_and_named() -> None:
    with pytest.raises(UnreachableError, match=r"^n0 to n1 over d2d: .* 0 bit/s at 4 s$"):
        transfer_s(SteppedWorld([(0.0, 8.0), (4.0, 0.0)]), HOP, 5, 0.0)


def test_a_link_that_comes_and_goes_without_a_rate_is_given_up() -> None:
    class Blinking(SteppedWorld):
        def next_change_s(self, at_s: float) -> float:
            return math.floor(at_s) + 1.0

    with pytest.raises(UnreachableError, match="never arrives"):
        transfer_s(Blinking([(0.0, 0.0)]), HOP, 1, 0.0)


def test_an_actor_is_busy_until_its_last_work_is_done() -> None:
    clock = Clock()
    assert clock.end_s == clock.free_s("n0") == 0.0
    for until_s in (2.0, 5.0, 3.0):
        clock.occupy("n0", until_s)
    clock.occupy("n1", 4.0)
    assert (clock.free_s("n0"), clock.free_s("n1"), clock.end_s) == (5.0, 4.0, 5.0)
