"""An actor is busy until the last of what it has to do is done."""

from __future__ import annotations

from mfd_flower.network.clock import Clock


def test_an_actor_is_busy_until_its_last_work_is_done() -> None:
    clock = Clock()
    assert clock.free_s("n0") == 0.0
    for until_s in (2.0, 5.0, 3.0):
        clock.occupy("n0", until_s)
    clock.occupy("n1", 4.0)
    assert (clock.free_s("n0"), clock.free_s("n1")) == (5.0, 4.0)
