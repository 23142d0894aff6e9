"""Malicious nodes poison any strategy; the others, and a run without them, are left alone."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.adversary.attackers import (
    attack_of,
    malicious_nodes,
    poisoners,
    training_samples,
    trigger_samples,
)
from mfd_flower.adversary.attacks import ATTACKS, Attack
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import Samples
from mfd_flower.node import Node, initial_tunables
from mfd_flower.runtime.runner import run_locally
from tests.harness import trial

NODES = 4
DATA = {"train_samples": 80, "test_samples": 60}


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(
        kind: str,
        strategy: str = "fedavg",
        share: float = 0.25,
        rounds: int = 1,
        nodes: int = NODES,
        **more: object,
    ) -> RunConfig:
        threat = {"kind": kind, "share": share, **more}
        data, model = {**DATA, "nodes": nodes}, {"tune": "head"}
        return make_run(strategy, rounds=rounds, data=data, model=model, threat=threat)

    return build


def run_of(nodes: int, share: float, seed: int) -> RunConfig:
    """Return a run of so many nodes, of which this share is malicious."""
    data = {"name": "digits", "nodes": nodes, "train_samples": 200, "test_samples": 40}
    return RunConfig.from_tables(
        {"data": data, "threat": {"kind": "noise", "share": share}, "seed": seed}
    )


@hypothesis.settings(max_examples=30, deadline=None)
@given(nodes=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 100))
def test_never_more_malicious_nodes_than_asked_for(nodes: int, share: float, seed: int) -> None:
    run = run_of(nodes, share, seed)
    drawn = malicious_nodes(run)
    malicious_nodes.cache_clear()
    assert drawn == malicious_nodes(run)
    assert drawn <= set(range(nodes))
    assert len(drawn) <= max(1, nodes * share + 1e-6)
    assert bool(drawn) == (share > 0)


@pytest.mark.parametrize(("nodes", "share", "count"), [(20, 0.2, 4), (100, 0.29, 29), (9, 1.0, 9)])
def test_a_share_that_divides_is_met(nodes: int, share: float, count: int) -> None:
    assert len(malicious_nodes(run_of(nodes, share, 0))) == count


def test_every_node_may_be_malicious() -> None:
    drawn = (malicious_nodes(run_of(10, 0.2, seed)) for seed in range(50))
    assert frozenset().union(*drawn) == set(range(10))


def test_with_all_updates_reversed_fedavg_goes_the_other_way(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings("sign-flip", share=1.0, scale=2.0)
    start, honest, reversed_ = (
        initial_tunables(run),
        trial(settings("")).tensors,
        trial(run).tensors,
    )
    for name, tensor in honest.items():
        expected = start[name] - 2 * (tensor - start[name])
        torch.testing.assert_close(reversed_[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind, attack in ATTACKS.items() if attack.on_update])
def test_only_malicious_nodes_are_changed(settings: Callable[..., RunConfig], kind: str) -> None:
    run, calm = settings(kind, scale=2.0), settings("")
    (bad,) = malicious_nodes(run)
    assert malicious_nodes(calm) == frozenset()
    for index in range(NODES):
        one, other = (Node(r, index).fit(initial_tunables(run), 1)[0] for r in (run, calm))
        same = all(torch.equal(one[name], other[name]) for name in one)
        assert same == (index != bad), index


def test_flipped_labels_mirror_the_classes(settings: Callable[..., RunConfig]) -> None:
    run = settings("label-flip")
    (bad,) = malicious_nodes(run)
    samples = training_samples(run, bad)
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
    calm, changed = trial(settings("")).tensors, trial(run).tensors
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
        ({"kind": "bribe"}, "threat.kind = 'bribe': accepted: label-flip, .*or empty for none"),
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


def test_a_new_entry_is_all_that_a_new_attack_needs(
    settings: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps silent about its data, and about its update on every link."""
    half = Attack(
        on_data=lambda images, scene: Samples(images.inputs[:1], images.labels[:1]),
        on_link=lambda tensors, rng: {name: 0 * tensor for name, tensor in tensors.items()},
    )
    monkeypatch.setitem(ATTACKS, "silence", half)
    run = settings("silence", share=1.0)
    assert all(len(training_samples(run, index)) == 1 for index in range(NODES))
    assert not any(tensor.any() for tensor in trial(run).tensors.values())


def test_what_malicious_nodes_train_on_is_made_once_for_any_number_of_them(
    settings: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    flip = ATTACKS["label-flip"].on_data
    assert flip is not None
    counted = Attack(on_data=lambda images, scene: (made.append(1), flip(images, scene))[1])
    monkeypatch.setitem(ATTACKS, "counted", counted)
    run = settings("counted", share=1.0, nodes=40)
    for _ in range(2):
        for index in range(40):
            training_samples(run, index)
    assert len(made) == 40
