"""An actor is busy until the last of what it has to do is done, and it is known what led there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.network.clock import KINDS, START, Clock, Moment


def test_an_actor_is_busy_until_its_last_work_is_done() -> None:
    clock = Clock()
    assert clock.free_s("n0") == 0.0
    for until_s in (2.0, 5.0, 3.0):
        clock.occupy("n0", START.later(until_s, "compute"))
    clock.occupy("n1", START.later(4.0, "up"))
    assert (clock.free_s("n0"), clock.free_s("n1")) == (5.0, 4.0)
    assert clock.free("n0").took["compute"] == 5.0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from(KINDS)), max_size=20))
def test_what_a_chain_took_adds_up_to_its_time(steps: list[tuple[float, str]]) -> None:
    moment = START
    for seconds, kind in steps:
        moment = moment.later(moment.at_s + seconds, kind)
    assert sum(moment.took.values()) == pytest.approx(moment.at_s)
    clock = Clock()
    clock.occupy("n0", moment)
    again = Clock()
    again.load_state(clock.state())
    assert again.free("n0") == moment == Moment.of(moment.numbers)
