"""Nodes that are unlike: who has which profile, and what it changes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import comparison_from_tables
from mfd_flower.config import RunConfig
from mfd_flower.data.samples import Samples
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.models.residents import shard
from mfd_flower.node import evaluate_tunables, initial_tunables
from mfd_flower.profiles import own_settings, profile_of
from mfd_flower.runtime.node_quality import node_quality
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from tests.harness import trial

CNN = {"backbone": "random", "arch": "small-cnn", "tune": "full"}
MIXED = [
    {"name": "cnn", "share": 0.5, "model": CNN},
    {"name": "less", "share": 0.25, "model": {"blocks": 2}, "train": {"local_epochs": 2}},
]


def run_of(
    strategy: str, profiles: list[dict[str, Any]], nodes: int = 4, **other: Any
) -> RunConfig:
    data = {"name": "digits", "nodes": nodes, "train_samples": 160, "test_samples": 100}
    tables = {
        "data": {**data, "validation": 0.0, **other.pop("data", {})},
        "train": {"lr": 0.01, "local_epochs": 3},
        "strategy": {"name": strategy, "rounds": 2},
        "profiles": json.dumps(profiles),
        **other,
    }
    return RunConfig.from_tables(tables)


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_shares_are_dealt_out_to_the_node(parts: list[float], nodes: int, seed: int) -> None:
    shares = [part / max(1.0, sum(parts)) for part in parts]
    profiles = [{"name": str(i), "share": share} for i, share in enumerate(shares)]
    run = run_of("local-only", profiles, nodes, seed=seed)
    given_out = Counter(p.name for i in range(nodes) if (p := profile_of(run, i)))
    for i, share in enumerate(shares):
        assert abs(given_out[str(i)] - share * nodes) <= 1
    assert abs(sum(given_out.values()) - sum(shares) * nodes) <= 0.5 + 1e-6


def test_another_seed_deals_to_others() -> None:
    names = {
        tuple(
            p.name if (p := profile_of(run_of("local-only", MIXED, 12, seed=s), i)) else ""
            for i in range(12)
        )
        for s in range(4)
    }
    assert len(names) == 4


def test_a_profile_goes_with_a_kind_of_device() -> None:
    network = {"world": "wireless", "options": json.dumps({"devices": ["phone-low", "robot"]})}
    profiles = [{"name": "weak", "devices": ["phone-low"]}, {"name": "others", "share": 1.0}]
    run = run_of("local-only", profiles, 10, network=network)
    named = Counter(p.name for i in range(10) if (p := profile_of(run, i)))
    assert named == {"weak": 5, "others": 5}
    with pytest.raises(
        ConfigError, match=r"profiles\[0\]\.devices = 'phone-mid': accepted in this"
    ):
        profile_of(run_of("local-only", [{"devices": ["phone-mid"]}], network=network), 0)


def test_own_models_train_and_are_kept(tmp_path: Path) -> None:
    run = run_of("local-only", MIXED)
    found = run_locally(run, files=RunFiles(tmp_path, "mixed"))
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"] + 0.1
    sizes = set()
    for index in range(4):
        own, name = own_settings(run, index), f"n{index}"
        kept = TrainedModel.load(tmp_path / found["models"][name])
        sizes.add(sum(t.numel() for t in kept.tensors.values()))
        quality = found["node_quality"][name]
        measured = evaluate_tunables(own, kept.tensors)
        assert kept.about.model == own.model
        assert measured.accuracy == pytest.approx(quality["accuracy"])
        assert quality["profile"] == (p.name if (p := profile_of(run, index)) else "")
    assert len(sizes) == 3
    mean = np.mean([each["accuracy"] for each in found["node_quality"].values()])
    assert mean == pytest.approx(found["points"][-1]["accuracy"])


def test_of_a_node_whose_model_was_never_heard_of_nothing_is_known() -> None:
    run = run_of("local-only", [])
    tensors = dict(initial_tunables(run))
    found = node_quality(run, {"n0": ArrayRecord(tensors)})
    assert found["n0"]["accuracy"] is not None
    assert found["n1"] == {
        "accuracy": None,
        "own_accuracy": None,
        "absent_accuracy": None,
        "profile": "",
    }


@pytest.mark.parametrize("classes", [1, 3])
def test_own_accuracy_is_that_of_a_test_set_dealt_out_like_the_shard(classes: int) -> None:
    run = run_of("fedavg", [], data={"partition": "classes", "classes": classes})
    tensors = {name: t + 0.02 * torch.randn_like(t) for name, t in initial_tunables(run).items()}
    quality = node_quality(run, {"": ArrayRecord(tensors)})
    test = shard(run, "test")
    right = {}
    for label in range(10):
        rows = (test.labels == label).nonzero()[:, 0]
        own = Samples(test.inputs[:][rows], test.labels[rows])
        right[label] = evaluate_tunables(run, tensors, own).accuracy
    for index in range(4):
        labels = shard(run, index).labels.tolist()
        expected = sum(right[label] for label in labels) / len(labels)
        assert quality[f"n{index}"]["own_accuracy"] == pytest.approx(expected, abs=1e-6)
        absent = [right[label] for label in range(10) if label not in labels]
        found = quality[f"n{index}"]["absent_accuracy"]
        assert found == pytest.approx(np.mean(absent), abs=1e-6)


def test_a_node_trains_with_its_own_settings() -> None:
    """One that hardly moves leaves what it gets as it is."""
    still = [{"share": 0.5, "train": {"lr": 1e-12}}]
    run = run_of("fedavg", still)
    found = trial(run)
    begun = initial_tunables(run)
    moved = {}
    for request, reply in found.grid.of("train")[:4]:
        name = found.grid.address(request.metadata.dst_node_id)
        assert reply is not None
        (arrays,) = reply.content.array_records.values()
        moved[name] = max(
            float(abs(arrays[key].numpy() - begun[key].numpy()).max()) for key in begun
        )
    for index in range(4):
        assert (moved[f"n{index}"] > 1e-4) is (profile_of(run, index) is None)


def test_settings_travel_as_flowers_run_config() -> None:
    run = run_of("local-only", MIXED)
    assert RunConfig.from_flat(run.flat()) == run
    assert own_settings(own_settings(run, 0), 0) == own_settings(run, 0)


def test_scenarios_and_entries_have_profiles_of_their_own() -> None:
    tables = {
        "profiles": MIXED,
        "scenarios": [{"name": "alike", "profiles": []}, {"name": "unlike"}],
        "strategies": [
            {"strategy": "local-only"},
            {"strategy": "local-only", "label": "half", "profiles": MIXED[:1]},
        ],
    }
    found = comparison_from_tables(tables, "x")
    told = {run.cell[:2]: len(run.config.node_profiles) for run in found.runs}
    assert told == {
        ("alike", "local-only"): 0,
        ("alike", "half"): 1,
        ("unlike", "local-only"): 2,
        ("unlike", "half"): 1,
    }


@pytest.mark.parametrize(
    ("strategy", "profiles", "line"),
    [
        ("fedavg", MIXED, "profiles[0].model = {'arch': 'small-cnn', 'backbone': 'random'"),
        ("local-only", [{"share": 0.7}, {"share": 0.4}], "profiles: sum of the shares = 1.1"),
        ("local-only", [{"share": 2}], "profiles[0].share = 2.0: must be at least 0 and at most 1"),
        ("local-only", [{"model": {"width": 3}}], "profiles.model.width = 3: unknown key"),
        ("local-only", [{"train": {"lr": 0}}], "profiles.train.lr = 0.0: must be above 0"),
        ("local-only", [{"colour": 1}], "profiles[0].colour = 1: unknown key"),
        ("local-only", [3], "profiles[0] = 3: a table"),
        ("local-only", [{"devices": ["robot"]}], "accepted in this world: none"),
        (
            "local-only",
            [{"share": 1, "model": {**CNN, "tune": "lora"}}],
            "model.tune = 'lora': accepted for small-cnn: head, full",
        ),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(
    strategy: str, profiles: list[Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        run_locally(run_of(strategy, profiles))
    assert "\n" not in str(caught.value)


def test_a_node_with_a_model_of_its_own_computes_nothing_with_the_common_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose features would be work that nobody asked for."""
    run = run_of("local-only", [{"share": 1.0, "model": CNN}])
    made: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        "mfd_flower.models.residents.frozen_features",
        lambda run, images: made.append((run.model.arch, len(images))) or images,
    )
    trial(run)
    assert {arch for arch, _ in made} <= {"small-cnn"}
