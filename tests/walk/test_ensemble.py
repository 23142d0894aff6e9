"""Several models travel in one packet, and each node mixes them by its own loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.models import build_model, get_tunables, set_tunables
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.node import Node, evaluate_tunables
from mfd_flower.packets import PacketError
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.traits.ensemble import Ensemble, mixed
from tests.harness import trial
from tests.walk.test_terms import landed


def run_of(trait: dict[str, Any], rounds: int = 1, **other: Any) -> RunConfig:
    traits = {"ensemble": trait, **other.pop("traits", {})}
    options = {"policy": "round-robin", "traits": traits}
    data = {"name": "digits", "nodes": 4, "train_samples": 160, "test_samples": 100}
    return RunConfig.from_tables(
        {
            "data": {**data, "validation": 0.0, "partition": "classes", "classes": 4},
            "model": {"backbone": "fm-tiny", "tune": "head"},
            "train": {"lr": 0.03, "local_epochs": 3},
            "strategy": {"name": "mfd-walk", "rounds": rounds, "options": json.dumps(options)},
            **other,
        }
    )


@settings(max_examples=10, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=4).filter(lambda w: sum(w) > 0.1),
    seed=st.integers(0, 99),
)
def test_of_heads_the_mix_of_weights_is_that_of_logits(weights: list[float], seed: int) -> None:
    model = build_model(ModelConfig(backbone="fm-tiny", tune="head"), 10, 0).eval()
    generator = torch.Generator().manual_seed(seed)
    members = [
        {name: torch.randn(t.shape, generator=generator) for name, t in get_tunables(model).items()}
        for _ in weights
    ]
    images, logits = torch.randn(3, 1, 28, 28, generator=generator), torch.zeros(3, 10)
    with torch.inference_mode():
        for weight, member in zip(weights, members, strict=True):
            set_tunables(model, member)
            logits += weight * model(images)
        set_tunables(model, mixed(members, weights))
        torch.testing.assert_close(model(images), logits, atol=1e-3, rtol=1e-4)


def test_a_visit_replaces_the_oldest_member_alone() -> None:
    made = {hop: packet.decoded() for hop, packet in landed(trial(run_of({"members": 3}))).items()}
    for hop in range(2, 5):
        changed = {n for n, t in made[hop].items() if not torch.equal(t, made[hop - 1][n])}
        assert {name.partition("/")[0] for name in changed} == {str((hop - 1) % 3)}


def test_a_packet_is_as_large_as_its_members() -> None:
    """To the byte of payload, and it is billed."""
    one, three = (
        run_locally(run)["points"][-1]["bytes"]["payload"]
        for run in (run_of({"members": 3}), plain(run_of({"members": 3})))
    )
    assert one == 3 * three


def plain(run: RunConfig) -> RunConfig:
    options = {"policy": "round-robin"}
    return RunConfig.from_flat({**run.flat(), "strategy.options": json.dumps(options)})


def test_weights_follow_the_loss_on_local_data(monkeypatch: pytest.MonkeyPatch) -> None:
    mixes: list[list[float]] = []
    losses: list[list[float]] = []
    measured = Node.evaluate

    def evaluate(self: Node, tensors: Any) -> Any:
        found = measured(self, tensors)
        losses[-1].append(found.loss)
        return found

    def keep(members: Any, weights: Any) -> Any:
        if len(losses[-1]) == 3:
            mixes.append(list(weights))
            losses.append([])
        return mixed(members, weights)

    losses.append([])
    monkeypatch.setattr(Node, "evaluate", evaluate)
    monkeypatch.setattr("mfd_flower.walk.traits.ensemble.mixed", keep)
    trial(run_of({"members": 3, "temperature": 0.5}))
    assert len(mixes) == 4
    for weights, found in zip(mixes, losses, strict=False):
        expected = torch.softmax(-torch.tensor(found).double() / 0.5, 0)
        torch.testing.assert_close(torch.tensor(weights).double(), expected)
    assert max(mixes[-1]) > 0.5


def test_each_node_keeps_what_it_made_of_the_mix(tmp_path: Path) -> None:
    run = run_of({}, rounds=2)
    found = run_locally(run, files=RunFiles(tmp_path, "ensemble"))
    for index in range(4):
        kept = TrainedModel.load(tmp_path / found["own_models"][f"n{index}"])
        quality = found["node_quality"][f"n{index}"]
        assert evaluate_tunables(run, kept.tensors).accuracy == pytest.approx(quality["accuracy"])
        assert quality["own_accuracy"] > quality["accuracy"]
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"] + 0.2


@pytest.mark.parametrize("name", ["head.weight", "3/head.weight", "00/head.weight", "x/head.bias"])
def test_members_that_are_none_are_named(name: str) -> None:
    with pytest.raises(PacketError, match=f"{name}: begins with no member's number"):
        Ensemble(members=3)._parted({name: torch.zeros(1)})
