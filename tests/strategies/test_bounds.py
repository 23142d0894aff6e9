"""The two bounds, centralised and local-only: a lost message delays them and ruins nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfd_flower.config import FaultsConfig, RunConfig
from mfd_flower.runtime.runner import run_locally
from tests.harness import trial, whole_and_stopped
from tests.scheduled_faults import Fault

MakeRun = Callable[..., RunConfig]


@pytest.mark.parametrize("strategy", ["centralised", "local-only"])
def test_however_much_is_lost_every_round_has_its_point(make_run: MakeRun, strategy: str) -> None:
    for seed in range(3):
        run = make_run(strategy, 4, seed, model={"tune": "head"}, faults={"loss": 0.4})
        assert [point["step"] for point in run_locally(run)["points"]] == [0, 1, 2, 3, 4]


def test_the_centre_trains_on_all_data_though_an_upload_and_a_delivery_are_lost(
    make_run: MakeRun,
) -> None:
    """Two rounds later than without the losses it has what it would have had."""
    run = make_run("centralised", 3, model={"tune": "head"})
    lost = [
        Fault("request-lost", "n1", message_type="query.upload"),
        Fault("request-lost", "n0", message_type="train.centre"),
    ]
    found = trial(run, faults=lost)
    uploads = [name for name in found.contexts["n0"].state if name.startswith("uploaded")]
    assert sorted(uploads) == ["uploaded.data-0", "uploaded.data-1"]
    assert found.steps == [0, 1, 2, 3]
    assert found.grid.kinds["query.upload"] == 3
    assert found.models[1] is found.models[0]
    assert found.models[3] is not found.models[2]


def test_a_node_that_missed_the_first_round_begins_in_the_next(make_run: MakeRun) -> None:
    run = make_run("local-only", 2, model={"tune": "head"})
    lost = Fault("request-lost", "n1", message_type="train.alone")
    found = trial(run, faults=[lost])
    first, second = found.models[1:]
    assert set(first) == {"n0", "n2"}
    assert set(second) == {"n0", "n1", "n2"}


def test_a_node_that_is_not_heard_of_counts_as_it_was_last_heard(make_run: MakeRun) -> None:
    run = make_run("local-only", 2, model={"tune": "head"})
    lost = Fault("request-lost", "n1", occurrence=2, message_type="train.alone")
    first, second = trial(run, faults=[lost]).models[1:]
    assert second["n1"] is first["n1"]
    assert second["n0"] is not first["n0"]


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [("centralised", "train.centre"), ("local-only", "train.alone"), ("fedavg", "train")],
)
def test_a_node_that_is_down_for_two_rounds_has_failed_twice(
    make_run: MakeRun, strategy: str, kind: str
) -> None:
    """A request without an answer is a failure and no visit, and every round has its model."""
    dies = Fault("dies-before-training", "n0", occurrence=2, downtime=1, message_type=kind)
    found = trial(make_run(strategy, 4, model={"tune": "head"}), faults=[dies])
    assert found.steps == [0, 1, 2, 3, 4]
    assert found.grid.failed == ["n0", "n0"]
    assert len(found.grid.visits) == found.grid.updates


@pytest.mark.parametrize("strategy", ["centralised", "local-only"])
def test_what_is_still_to_be_delivered_survives_a_stop(
    make_run: MakeRun, tmp_path: Path, strategy: str
) -> None:
    run = make_run(strategy, 4, 1, model={"tune": "head"}, faults={"loss": 0.5})
    whole, again, _ = whole_and_stopped(run, tmp_path, 2, 3)
    assert [point["loss"] for point in again] == [point["loss"] for point in whole]


def test_alone_the_centre_trains_on_its_own_data(make_run: MakeRun) -> None:
    run = make_run("centralised", 1, model={"tune": "head"}, data={"nodes": 1})
    record = run_locally(run)
    assert record["failures"] == []
    assert record["points"][-1]["updates"] == 1


@pytest.mark.parametrize("strategy", ["local-only", "centralised", "fedavg"])
def test_what_is_damaged_on_its_way_does_not_arrive(make_run: MakeRun, strategy: str) -> None:
    """These strategies check nothing that they get: Flower's digests give damage away."""
    run = make_run(strategy, 9, 2, model={"tune": "head"})
    calm = run_locally(run)
    for faults in ({"corruption": 0.4}, {"death": 0.3, "downtime": 1}):
        shaken = run_locally(replace(run, faults=FaultsConfig(**faults)))
        losses, undisturbed = ([p["loss"] for p in r["points"]] for r in (shaken, calm))
        assert len(losses) == len(undisturbed)
        assert shaken["failures"]
        assert losses != undisturbed
        assert all(map(math.isfinite, losses))
        assert shaken["points"][-1]["updates"] <= calm["points"][-1]["updates"]
