"""Planned clusters: from what nodes tell and what the world says, and nothing else."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data.federation import Federation
from mfd_flower.network.world import Device, Transfer, World
from mfd_flower.node import Node, initial_tunables
from mfd_flower.split.inference import train_then_serve
from strategies import hfsl as hfsl_module
from strategies.hfsl import HFSL
from tests.harness import Trial, trial
from tests.strategies.test_hfsl_rounds import fail_once

MakeRun = Callable[..., RunConfig]
SGD = {"optimizer": "sgd", "lr": 0.3, "batch_size": 8}
PAIRS = {"form": "planned", "cluster_size": 2}


class Uneven(World):
    """Links between `apart` carry a thousandth; n0 computes a tenth as fast."""

    apart: tuple[set[str], ...] = ({"n0", "n1"}, {"n2", "n3"})

    def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
        slow = [{t.source, t.destination} in self.apart for t in transfers]
        return super().rates_bps(transfers, at_s) * np.where(slow, 1e-3, 1.0)

    def device(self, address: str) -> Device:
        device = super().device(address)
        speed = device.flops_per_s * (0.1 if address == "n0" else 1.0)
        return Device(speed, device.joules_per_flop, device.joules_per_bit)


def clusters_of(found: Trial) -> list[list[tuple[str, ...]]]:
    """Return the members of each cluster, round by round."""
    rounds: dict[int, dict[int, tuple[str, ...]]] = {}
    for request, _ in found.grid.of("train.stage"):
        roster: Any = request.content.config_records["roster"]
        rounds.setdefault(roster["round"], {})[roster["cluster"]] = tuple(roster["members"])
    return [[clusters[k] for k in sorted(clusters)] for _, clusters in sorted(rounds.items())]


def labels_told(found: Trial) -> dict[str, list[int]]:
    told = {}
    for request, reply in found.grid.of("query.labels"):
        assert reply is not None
        counts: Any = reply.content.metric_records["labels"]["label-counts"]
        told[found.grid.address(request.metadata.dst_node_id)] = counts
    return told


def tell(counts: dict[str, list[int]]) -> Callable[[Message, Context], Message]:
    """Return a handler of nodes that tell `counts`, whatever they have."""
    honest = HFSL.client_actions["query.labels"]

    def handler(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        record = reply.content.metric_records["labels"]
        record["label-counts"] = counts[Node.of(context).address]
        return reply

    return handler


@pytest.mark.parametrize("cuts", ["even", "planned", [2]])
def test_slow_links_part_those_whom_order_joins(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, cuts: Any
) -> None:
    monkeypatch.setattr(hfsl_module, "world_of", lambda config, *rest: Uneven(config, *rest))
    options = {"clusters": 2, "cluster_size": 2, "cuts": cuts}
    runs = {
        form: make_run("hfsl", data={"nodes": 4}, train=SGD, options={**options, "form": form})
        for form in ("order", "planned")
    }
    assert clusters_of(trial(runs["order"])) == [[("n0", "n1"), ("n2", "n3")]]
    found = trial(runs["planned"])
    (clusters,) = clusters_of(found)
    assert sorted(name for each in clusters for name in each) == ["n0", "n1", "n2", "n3"]
    assert not any(set(each) in Uneven.apart for each in clusters)
    # What they train is what clusters with these firsts train: nothing else changed.
    firsts = [int(each[0][1:]) for each in clusters]
    initial = dict(initial_tunables(runs["planned"]))
    fits = [Node(runs["planned"], first).fit(initial, step=1)[0] for first in firsts]
    expected = {name: (fits[0][name] + fits[1][name]) / 2 for name in fits[0]}
    torch.testing.assert_close(found.tensors, expected, rtol=0, atol=1e-6)


def test_planned_cuts_give_the_slow_device_less(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hfsl_module, "world_of", lambda config, *rest: Uneven(config, *rest))
    run = make_run("hfsl", data={"nodes": 2}, options={"cluster_size": 2, "cuts": "planned"})
    strategy = HFSL(run, cluster_size=2, cuts="planned")
    assert strategy.roster(1, 0, ["n0", "n1"], 0.0).cuts == (1,)
    assert strategy.roster(1, 0, ["n1", "n0"], 0.0).cuts == (5,)


def test_only_linked_nodes_are_joined(make_run: MakeRun) -> None:
    network = {"topology": "ring"}
    run = make_run("hfsl", data={"nodes": 6}, network=network, options={**PAIRS, "clusters": 3})
    (clusters,) = clusters_of(trial(run))
    assert sorted(name for each in clusters for name in each) == [f"n{i}" for i in range(6)]
    assert all(abs(int(a[1:]) - int(b[1:])) in (1, 5) for a, b in clusters)


def test_a_ring_that_does_not_close_is_refused(make_run: MakeRun) -> None:
    """Labels go from the first of a cluster to its last: three in a row are no cluster."""
    run = make_run(
        "hfsl",
        data={"nodes": 6},
        network={"topology": "ring"},
        options={"form": "planned", "cluster_size": 3},
    )
    with pytest.raises(ConfigError) as refused:
        trial(run)
    said = str(refused.value)
    assert said.startswith("clusters = 1: no such clusters of 3 found: 6 pairs of 6 members")
    # A run in a process of its own hands its error on.
    assert str(pickle.loads(pickle.dumps(refused.value))) == said


def test_the_server_knows_labels_by_messages_only(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at a node's labels is on a node's thread; lies are believed, and billed."""
    counted, readers = Federation.label_counts, set()

    def spied(federation: Federation, node: int) -> NDArray[np.int64]:
        readers.add(threading.current_thread().name.rpartition("_")[0])
        return counted(federation, node)

    monkeypatch.setattr(Federation, "label_counts", spied)
    run = make_run("hfsl", data={"nodes": 4}, options=PAIRS)
    found = trial(run)
    assert readers == {"node"}
    assert found.grid.kinds["query.labels"] == 4
    assert found.grid.wire_by_type["query.labels"] > 0
    assert labels_told(found) == {f"n{i}": Node(run, i).label_counts.tolist() for i in range(4)}
    for liar in ("n1", "n3"):
        lies = {f"n{i}": [50] * 10 if f"n{i}" == liar else [1] + [0] * 9 for i in range(4)}
        monkeypatch.setitem(HFSL.client_actions, "query.labels", tell(lies))
        (((first, _),),) = clusters_of(trial(run))
        assert first == liar


def test_order_asks_nobody(make_run: MakeRun) -> None:
    found = trial(make_run("hfsl", options={"cluster_size": 2}))
    assert found.grid.kinds == {"train.stage": 2}


@pytest.mark.parametrize("lie", [[-1], [float("nan")], [float("inf")], [2**60]])
def test_a_node_that_tells_what_cannot_be_is_left_out(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, lie: list[float]
) -> None:
    counts: dict[str, Any] = {"n0": lie, "n1": [1, 1], "n2": [1, 1]}
    monkeypatch.setitem(HFSL.client_actions, "query.labels", tell(counts))
    (((a, b),),) = clusters_of(trial(make_run("hfsl", options=PAIRS)))
    assert {a, b} == {"n1", "n2"}


def test_after_a_failure_survivors_and_idle_nodes_are_planned_anew(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a ring an idle node takes the place only beside a survivor, else the pair is another."""
    run = make_run(
        "hfsl", rounds=3, data={"nodes": 5}, network={"topology": "ring"}, options=PAIRS, train=SGD
    )
    (((first, second),), *_) = clusters_of(trial(run))
    fail_once(monkeypatch, 1, second)
    found = trial(run)
    before, after, last = (rounds[0] for rounds in clusters_of(found))
    assert before == (first, second)
    assert after == last
    assert second not in after
    assert abs(int(after[0][1:]) - int(after[1][1:])) in (1, 4)
    assert found.grid.kinds["query.labels"] == 5


def test_a_survivor_that_reaches_nobody_goes_on_alone(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the path n0, n1, n2 (a ring whose third link is out of reach) the middle one fails."""

    class Path(World):
        def neighbours(self, address: str, at_s: float) -> tuple[str, ...]:
            return {"n0": ("n1",), "n1": ("n0", "n2"), "n2": ("n1",)}[address]

    monkeypatch.setattr(hfsl_module, "world_of", lambda config, *rest: Path(config, *rest))
    run = make_run("hfsl", rounds=2, options=PAIRS, train=SGD)
    fail_once(monkeypatch, 1, "n1")
    before, after = (rounds[0] for rounds in clusters_of(trial(run)))
    assert "n1" in before
    assert after in (("n0",), ("n2",))


def test_a_planned_cluster_serves(make_run: MakeRun) -> None:
    served, *_ = train_then_serve(make_run("hfsl", options=PAIRS), 20)
    assert len({each.accuracy for each in served}) == 1
    assert all(each.request_bytes["d2d"] > 0 for each in served)


def test_memory_of_devices_limits_who_is_joined(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(World):
        def device(self, address: str) -> Device:
            room = 1e5 if address in ("n0", "n1") else 1e9
            return Device(5e9, 1e-10, 1e-7, room)

    monkeypatch.setattr(hfsl_module, "world_of", lambda config, *rest: Small(config, *rest))
    run = make_run("hfsl", data={"nodes": 4}, options={**PAIRS, "cuts": "planned"})
    (((a, b),),) = clusters_of(trial(run))
    assert {a, b} == {"n2", "n3"}
