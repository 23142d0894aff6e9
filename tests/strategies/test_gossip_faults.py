"""Gossip where messages and nodes are lost: who is missing is missing, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from mfd_flower.config import FaultsConfig
from mfd_flower.records import to_bytes
from tests.harness import trial, whole_and_stopped
from tests.scheduled_faults import Fault, Rates
from tests.strategies.mixing import (
    GRAPHS,
    HEAD,
    RANDOM,
    VARIANTS,
    MakeRun,
    learns_its_name,
    models_of,
    rows,
)

N2 = 3
"""Flower's id of node n2."""
LOST = {
    "its update": Fault("request-lost", "n1", message_type="train.step"),
    "its word of it": Fault("reply-lost", "n1", message_type="train.step"),
    "for good": Fault("dies-before-training", "n1"),
}


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_lost_node_leaves_its_weight_with_its_neighbours(
    on_graph: MakeRun, monkeypatch: pytest.MonkeyPatch, graph: str, fault: Fault
) -> None:
    """Nothing else changes for the others."""
    learns_its_name(monkeypatch, once=False)
    run = on_graph(graph, 3)
    calm, shaken = trial(run), trial(run, faults=[fault])
    expected = rows(calm, 1)
    others = np.arange(len(expected)) != 1
    expected += np.diag(expected[:, 1])
    expected[:, 1] = 0
    np.testing.assert_allclose(rows(shaken, 1)[others], expected[others])
    assert shaken.steps == [0, 1, 2, 3]
    if fault.kind != "dies-before-training":
        np.testing.assert_array_equal(rows(shaken, 3), rows(calm, 3))


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_node_that_cannot_train_still_averages(
    on_graph: MakeRun, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    learns_its_name(monkeypatch, once=False)
    lost = Fault("request-lost", "n1", occurrence=2, message_type="train.step")
    found = trial(on_graph(graph, 2), faults=[lost])
    expected = rows(found, 1)[1].copy()
    kept = expected[1]
    expected[1] = 0
    expected += kept * rows(found, 1)[1]
    np.testing.assert_allclose(rows(found, 2)[1], expected)


def test_even_weights_are_those_of_what_came(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns_its_name(monkeypatch, once=False)
    run = make_run("gossip", 2, data={"nodes": 6}, model=HEAD, options=RANDOM)
    lost = Fault("request-lost", "n3", message_type="train.step")
    calm, shaken = (rows(trial(run, faults=faults), 1) for faults in ([], [lost]))
    calm[:, 3] = 0
    others = np.arange(6) != 3
    np.testing.assert_allclose(shaken[others], (calm / calm.sum(1, keepdims=True))[others])


@pytest.mark.parametrize("how", ["lost", "too late"])
def test_one_transfer_that_fails_is_missing_at_its_receiver_alone(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    learns_its_name(monkeypatch, once=False)
    run = make_run("gossip", 2, data={"nodes": 4}, model=HEAD)
    lost = Fault("request-lost", "n2", occurrence=4, message_type="train.model")

    def delay(request: Message) -> None:
        sent = request.content.config_records.get("sent", ConfigRecord())
        where = (sent.get("source"), sent.get("server-round"), request.metadata.dst_node_id)
        if how == "too late" and where == ("n0", 2, N2):
            old = ConfigRecord({**sent, "server-round": 1})
            request.content = RecordDict({**request.content, "sent": old})

    shaken = rows(trial(run, [lost] if how == "lost" else [], delay), 2)
    expected = np.full((4, 4), 0.25)
    expected[2] = [0, 0.25, 0.5, 0.25]
    np.testing.assert_allclose(shaken, expected)


@VARIANTS
def test_what_comes_twice_counts_once(
    make_run: MakeRun, options: dict[str, Any], network: dict[str, Any]
) -> None:
    run = make_run("gossip", 3, model=HEAD, options=options, network=network)
    once, twice = trial(run), trial(run, faults=[Rates(FaultsConfig(duplicate=1.0))])
    assert twice.faults.injected == {"request-duplicated": len(twice.grid.requests)}
    assert models_of(twice) == models_of(once)
    assert twice.grid.updates == once.grid.updates == 9


def test_to_be_looked_at_changes_nothing(make_run: MakeRun) -> None:
    run = make_run("gossip", 3, model=HEAD)
    unseen = Rates(FaultsConfig(loss=1.0), message_type="query.own")
    seen, blind = trial(run), trial(run, faults=[unseen])
    assert len(blind.grid.failures) == 9
    assert {name: to_bytes(context.state) for name, context in blind.contexts.items()} == {
        name: to_bytes(context.state) for name, context in seen.contexts.items()
    }


def test_a_node_that_missed_the_first_round_begins_in_the_next(make_run: MakeRun) -> None:
    run = make_run("gossip", 2, model=HEAD)
    lost = Fault("request-lost", "n1", message_type="train.step")
    first, second = trial(run, faults=[lost]).models[1:]
    assert set(first) == {"n0", "n2"}
    assert set(second) == {"n0", "n1", "n2"}


@pytest.mark.parametrize("options", [{}, RANDOM], ids=["graph", "random"])
def test_a_stopped_run_goes_on_where_it_was(
    make_run: MakeRun, tmp_path: Path, options: dict[str, Any]
) -> None:
    faults = {"loss": 0.2, "duplicate": 0.1, "death": 0.1, "downtime": 1}
    run = make_run("gossip", 4, 1, model=HEAD, options=options, faults=faults)
    whole_run, again, said = whole_and_stopped(run, tmp_path, 2, 3)
    assert said == ["goes on behind step 1", "goes on behind step 2"]
    assert again == whole_run
