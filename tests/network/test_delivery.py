"""Messages that share a band: by hand, and against a simulation in small steps."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mfd_flower.config import NetworkConfig
from mfd_flower.network import delivery
from mfd_flower.network.delivery import Sending, deliver
from mfd_flower.network.world import EDGE, Transfer, World

HOP = Transfer("n0", "n1", "d2d")


class Shared(World):
    """A band of 8,000 bit/s for each kind of link, in equal parts; dark at some times."""

    shares = True

    def __init__(self, dark: Sequence[tuple[float, float]] = (), latency_s: float = 0.0) -> None:
        super().__init__(NetworkConfig(latency_s=latency_s), 10)
        self.dark = dark

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        if any(begin <= at_s < end for begin, end in self.dark):
            return np.zeros(len(transfers))
        sharing = Counter(each.link for each in transfers)
        return np.array([8000 / sharing[each.link] for each in transfers])

    def next_change_s(self, at_s: float) -> float:
        return min((t for span in self.dark for t in span if t > at_s), default=math.inf)


def up(node: int, size_bytes: int, begins_s: float = 0.0) -> Sending:
    return Sending(Transfer(f"n{node}", EDGE, "up"), size_bytes, begins_s)


def arrivals(world: World, *messages: Sending) -> list[float]:
    return [sent.arrives_s for sent in deliver(world, messages)]


def test_one_alone_has_the_band() -> None:
    assert arrivals(Shared(latency_s=0.5), up(0, 1000, 3.0)) == [4.5]


def test_two_share_until_the_first_is_done() -> None:
    """1,000 and 3,000 bytes: half of the band for 2 s each, then 2,000 bytes at the whole."""
    assert arrivals(Shared(), up(0, 1000), up(1, 3000)) == [2.0, 4.0]


def test_one_that_begins_later_slows_what_is_under_way() -> None:
    """2,000 bytes alone for 1 s, 1,000 left at half of the band: 3 s; the other 1,000 too."""
    assert arrivals(Shared(), up(0, 2000), up(1, 1000, 1.0)) == [3.0, 3.0]


def test_links_of_other_kinds_have_bands_of_their_own() -> None:
    down = Sending(Transfer(EDGE, "n5", "down"), 1000, 0.0)
    assert arrivals(Shared(), up(0, 1000), down) == [1.0, 1.0]


def test_what_was_sent_before_is_not_delayed_but_takes_its_part() -> None:
    other = (Transfer("n7", EDGE, "up"), 0.0, 1.0)
    (sent,) = deliver(Shared(), [up(0, 1000)], [other])
    assert sent.arrives_s == 1.5
    (sent,) = deliver(Shared(), [up(0, 1000, 2.0)], [other])
    assert sent.arrives_s == 3.0


def test_a_message_waits_in_the_dark_and_goes_on() -> None:
    assert arrivals(Shared([(0.5, 10.0)]), up(0, 1000)) == [10.5]


def test_what_comes_too_late_is_lost_and_its_sender_was_busy_until_then() -> None:
    late, early = deliver(Shared(), [up(0, 3000)._replace(until_s=2.5), up(1, 1000)])
    assert late == (2.5, math.inf, 2.5)
    assert early.arrives_s == 2.0
    (dark,) = deliver(Shared([(0.0, math.inf)]), [up(0, 1)._replace(until_s=7.0)])
    assert dark == (7.0, math.inf, 7.0)


def test_a_sender_that_is_not_heard_gives_up_and_leaves_the_band_to_others() -> None:
    world = Shared([(1.0, 9.0)])
    world.patience_s = 3.0
    lost, later = deliver(world, [up(0, 2000), up(1, 1000, 9.0)])
    assert lost == (4.0, math.inf, 4.0)
    assert later.arrives_s == 10.0
    world.patience_s = 8.5
    assert [each.arrives_s for each in deliver(world, [up(0, 2000)])] == [10.0]
    (never,) = deliver(Shared([(0.0, math.inf)]), [up(0, 1, 2.0)])
    assert never == (0.0, math.inf, 2.0)


def test_nothing_is_sent_in_no_time() -> None:
    assert deliver(Shared(), []) == []
    assert arrivals(Shared(latency_s=0.25), up(0, 0, 1.0)) == [1.25]


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1e6)), min_size=1, max_size=5))
def test_where_rates_do_not_depend_on_load_each_is_as_if_alone(
    drawn: list[tuple[int, float]],
) -> None:
    """To the last bit: start, and latency and bits over rate."""
    world = World(NetworkConfig(up_bps=12_345.6, latency_s=0.01), 5)
    found = arrivals(world, *(up(n, size, begin) for n, (size, begin) in enumerate(drawn)))
    for (size, begin), arrival in zip(drawn, found, strict=True):
        assert arrival == pytest.approx(begin + 0.01 + 8 * size / 12_345.6, rel=1e-14)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4000), st.floats(0, 3)), min_size=1, max_size=5),
    st.lists(st.floats(0, 4), min_size=2, max_size=2).map(sorted),
)
def test_small_steps_come_to_the_same(drawn: list[tuple[int, float]], dark: list[float]) -> None:
    world = Shared([(dark[0], dark[1])])
    messages = [up(node, size, begin) for node, (size, begin) in enumerate(drawn)]
    left, ends = [8.0 * size for size, _ in drawn], [math.inf] * len(drawn)
    step_s, at_s = 1e-3, 0.0
    while any(math.isinf(end) for end in ends):
        now = [n for n, (_, begin) in enumerate(drawn) if begin <= at_s and left[n] > 0]
        rates = world.rates_bps([messages[n].transfer for n in now], at_s)
        at_s += step_s
        for number, rate in zip(now, rates, strict=True):
            left[number] -= rate * step_s
            if left[number] <= 0:
                ends[number] = at_s
    assert arrivals(world, *messages) == pytest.approx(ends, abs=0.02)


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


def seconds(world: World, size_bytes: int, at_s: float) -> float:
    (sent,) = deliver(world, [Sending(HOP, size_bytes, at_s)])
    return sent.arrives_s - at_s


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
    assert seconds(SteppedWorld(steps), size_bytes, at_s) == expected_s
    late = SteppedWorld(steps, latency_s=0.25)
    assert seconds(late, size_bytes, at_s) == expected_s + 0.25


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
    end_s = at_s + seconds(SteppedWorld(steps), size_bytes, at_s)
    ends = [*(since for since, _ in steps[1:]), math.inf]
    sent = sum(
        rate * max(0.0, min(end_s, end) - max(at_s, since))
        for (since, rate), end in zip(steps, ends, strict=True)
    )
    assert sent == pytest.approx(8 * size_bytes, rel=1e-6, abs=1e-6)


def test_a_link_that_comes_and_goes_without_a_rate_ends_for_all_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "MAX_CHANGES", 100)

    class Blinking(SteppedWorld):
        def next_change_s(self, at_s: float) -> float:
            return math.floor(at_s) + 1.0

    (sent,) = deliver(Blinking([(0.0, 0.0)]), [Sending(HOP, 1, 0.0)])
    assert sent == (0.0, math.inf, 0.0)
