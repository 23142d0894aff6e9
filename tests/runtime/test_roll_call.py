"""The roll call says what an engine lacks before anybody waits for anybody."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mfd_flower import handlers
from mfd_flower.config import RunConfig
from mfd_flower.handlers import StrategyClientApp, engine_workers
from mfd_flower.runtime import LocalGrid, roll_call
from mfd_flower.runtime.roll_call import NodesMissingError, call_roll
from mfd_flower.runtime.runner import local_grid, run_on

MakeRun = Callable[..., RunConfig]


def ray_of(machines: list[dict[str, Any]], share: dict[str, float]) -> SimpleNamespace:
    """Return what a Ray actor sees: the machines, and its own share of one."""
    context = SimpleNamespace(get_assigned_resources=lambda: share)
    return SimpleNamespace(
        is_initialized=lambda: True,
        nodes=lambda: machines,
        get_runtime_context=lambda: context,
    )


def machine(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("machines", "share", "workers"),
    [
        ([machine(CPU=4.0)], {"CPU": 1.0}, 4),
        ([machine(CPU=4.0)], {"CPU": 3.0}, 1),
        # An actor does not stretch over two machines.
        ([machine(CPU=2.0), machine(CPU=4.0)], {"CPU": 3.0}, 1),
        ([machine(CPU=4.0), machine(alive=False, CPU=4.0)], {"CPU": 2.0}, 2),
        ([machine(CPU=8.0, GPU=1.0)], {"CPU": 1.0, "GPU": 0.5}, 2),
        ([machine(CPU=8.0)], {"CPU": 1.0, "GPU": 0.5}, 0),
        ([machine(CPU=8.0)], {"CPU": 0.0}, 0),
    ],
)
def test_workers_of_a_simulation_are_what_fits_on_its_machines(
    monkeypatch: pytest.MonkeyPatch,
    machines: list[dict[str, Any]],
    share: dict[str, float],
    workers: int,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray_of(machines, share))
    assert engine_workers() == workers


def test_outside_of_a_simulation_no_number_is_known() -> None:
    assert engine_workers() == 0


def test_too_few_workers_are_said_before_a_round_begins(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "engine_workers", lambda: 2)
    run = make_run("hfsl", options={"cluster_size": 3, "link": "gloo", "meet_s": 1e5})
    with (
        local_grid(run, workers=3) as grid,
        pytest.raises(
            NodesMissingError, match=r"^3 nodes must run at once, this simulation runs 2"
        ),
    ):
        run_on(grid, run)


def test_queues_between_processes_are_refused_before_a_round_begins(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "this_process", lambda: "elsewhere:1")
    run = make_run("hfsl", options={"cluster_size": 3, "meet_s": 1e5})
    with (
        local_grid(run, workers=3) as grid,
        pytest.raises(NodesMissingError, match=r'^options\.link = "queue"'),
    ):
        run_on(grid, run)


def test_a_strategy_that_needs_nothing_runs_on_one_worker(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "engine_workers", lambda: 1)
    run = make_run("mfd-walk")
    with local_grid(run, workers=1) as grid:
        assert call_roll(grid, 3) == dict(zip(grid.get_node_ids(), ("n0", "n1", "n2"), strict=True))


class LateGrid(LocalGrid):
    """Has no nodes until its clock says so."""

    starts_at_s = 0.0
    now_s = 0.0

    def get_node_ids(self) -> list[int]:
        ids = list(super().get_node_ids())
        return ids if self.now_s >= self.starts_at_s else []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(("starts_at_s", "waited"), [(0.0, True), (450.0, True), (700.0, False)])
def test_an_engine_may_start_slowly(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, starts_at_s: float, waited: bool
) -> None:
    run = make_run("mfd-walk")
    with LateGrid(StrategyClientApp(), 3, run.flat(), workers=1) as grid:
        grid.starts_at_s = starts_at_s
        clock = SimpleNamespace(monotonic=lambda: grid.now_s, sleep=grid.sleep)
        monkeypatch.setattr(roll_call, "time", clock)
        if waited:
            assert len(call_roll(grid, 3)) == 3
        else:
            with pytest.raises(NodesMissingError, match=r"^data\.nodes = 3: 0 nodes answered"):
                call_roll(grid, 3)


def test_who_is_missing_is_not_waited_for_as_long(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("mfd-walk")
    with LateGrid(StrategyClientApp(), 3, run.flat(), workers=1) as grid:
        clock = SimpleNamespace(monotonic=lambda: grid.now_s, sleep=grid.sleep)
        monkeypatch.setattr(roll_call, "time", clock)
        with pytest.raises(NodesMissingError, match=r"^data\.nodes = 4: 3 nodes answered"):
            call_roll(grid, 4)
        assert grid.now_s < 130
