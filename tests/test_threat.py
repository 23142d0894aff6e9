"""Malicious nodes poison any strategy; the others, and a run without them, are left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord

from mfd_flower.checks import ConfigError
from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.node import Node, initial_tunables
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import run_locally
from mfd_flower.strategy import build_strategy
from mfd_flower.threat import (
    attack_of,
    malicious_nodes,
    poisoned_shard,
    poisoners,
    trigger_samples,
)

NODES = 4
DATA = {"nodes": NODES, "train_samples": 80, "test_samples": 60}


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(
        kind: str, strategy: str = "fedavg", share: float = 0.25, rounds: int = 1, **more: object
    ) -> RunConfig:
        threat = {"kind": kind, "share": share, **more}
        model = {"tune": "head"}
        return make_run(strategy, rounds=rounds, data=DATA, model=model, threat=threat)

    return build


def final_arrays(run: RunConfig) -> dict[str, torch.Tensor]:
    with LocalGrid(app, run.data.nodes, run.flat()) as inner:
        grid = MeteredGrid(inner, addresses=call_roll(inner, run.data.nodes))
        initial = ArrayRecord(dict(initial_tunables(run)))
        result = build_strategy(run).start(grid, initial, num_rounds=run.strategy.rounds)
    return result.arrays.to_torch_state_dict()


def test_with_all_updates_reversed_fedavg_goes_the_other_way(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings("sign-flip", share=1.0, scale=2.0)
    start, honest, reversed_ = initial_tunables(run), final_arrays(settings("")), final_arrays(run)
    for name, tensor in honest.items():
        expected = start[name] - 2 * (tensor - start[name])
        torch.testing.assert_close(reversed_[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["label-flip", "sign-flip", "noise", "backdoor", "replay"])
def test_only_malicious_nodes_are_changed(settings: Callable[..., RunConfig], kind: str) -> None:
    run, calm = settings(kind), settings("")
    (bad,) = malicious_nodes(run)
    assert malicious_nodes(calm) == frozenset()
    for index in range(NODES):
        one, other = (Node(r, index).fit(initial_tunables(run), 1)[0] for r in (run, calm))
        same = all(torch.equal(one[name], other[name]) for name in one)
        assert same == (index != bad), index


def test_flipped_labels_mirror_the_classes(settings: Callable[..., RunConfig]) -> None:
    run = settings("label-flip")
    (bad,) = malicious_nodes(run)
    samples = poisoned_shard(run, bad)
    assert torch.equal(samples.labels, 9 - Node(run, bad).samples.labels)
    assert torch.equal(samples.inputs, Node(run, bad).samples.inputs)


def test_a_backdoor_is_learnt_and_its_success_is_measured(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings("backdoor", share=1.0, rounds=4, target=3)
    triggered = trigger_samples(run)
    assert triggered is not None
    assert set(triggered.labels.tolist()) == {3}
    found = run_locally(run)["points"][-1]
    unharmed = run_locally(settings("label-flip", share=0.0))["points"][-1]
    assert found["attack_success"] > 0.5
    assert "attack_success" not in unharmed


def test_a_bit_changed_on_the_way_reaches_fedavg(settings: Callable[..., RunConfig]) -> None:
    run = settings("tamper")
    calm, changed = final_arrays(settings("")), final_arrays(run)
    assert any(not torch.equal(calm[name], changed[name]) for name in calm)
    assert poisoners(run) == frozenset()


@pytest.mark.parametrize("name", ["Krum", "MultiKrum", "FedTrimmedAvg"])
def test_robust_rules_of_flowers_run_under_attack(
    settings: Callable[..., RunConfig], name: str
) -> None:
    record = run_locally(settings("scale", f"flwr.serverapp.strategy:{name}", scale=10.0))
    assert record["points"][-1]["updates"] == NODES
    assert record["failures"] == []
    assert "versions" not in record


@pytest.mark.parametrize(
    ("threat", "line"),
    [
        ({"kind": "bribe"}, "threat.kind = 'bribe': accepted: , label-flip"),
        ({"kind": "noise", "share": 1.5}, "threat.share = 1.5: must be at least 0"),
        ({"kind": "noise", "scale": 0}, "threat.scale = 0.0: must be above 0"),
        ({"kind": "scale"}, "threat.scale = 1.0: kind scale needs a factor other than 1"),
        ({"kind": "backdoor", "target": 10}, "threat.target = 10: must be below 10 classes"),
    ],
)
def test_bad_settings_are_refused(
    make_run: Callable[..., RunConfig], threat: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        attack_of(make_run("fedavg", threat=threat))
