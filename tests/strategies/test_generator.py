"""Generators travel once; who gets them learns classes that it has no image of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.generator import Decoder, GeneratorOptions
from mfd_flower.records import tensors_of
from mfd_flower.report.page import write_report
from mfd_flower.results import Results
from mfd_flower.runtime.compare import compare
from mfd_flower.runtime.runner import run_locally
from strategies.generator import Generator, decoder_of
from tests.harness import trial

CNN = {"backbone": "random", "arch": "small-cnn", "tune": "full"}


def run_of(strategy: str = "generator", rounds: int = 2, **options: Any) -> RunConfig:
    data = {"name": "digits", "nodes": 4, "train_samples": 120, "test_samples": 100}
    shared = {"validation": 0.0, "partition": "classes", "classes": 3}
    return RunConfig.from_tables(
        {
            "data": {**data, **shared},
            "train": {"lr": 0.01, "local_epochs": 3},
            "strategy": {"name": strategy, "rounds": rounds, "options": json.dumps(options)},
            "profiles": json.dumps([{"name": "cnn", "share": 0.25, "model": CNN}]),
        }
    )


def test_nodes_learn_classes_that_they_have_none_of() -> None:
    alone = run_locally(run_of("local-only"))["node_quality"]
    found = run_locally(run_of(images=10, generator={"epochs": 50}))
    absent = {
        name: np.mean([each["absent_accuracy"] for each in quality.values()])
        for name, quality in (("alone", alone), ("found", found["node_quality"]))
    }
    assert absent["found"] > absent["alone"] + 0.2
    for each in found["leakage"].values():
        assert 0 < each["distance_ratio"] < 2
        assert 0 <= each["membership_auc"] <= 1


def test_the_report_shows_what_is_drawn_and_given_away(tmp_path: Path) -> None:
    tables = {
        "seeds": [0],
        "data": {"name": "digits", "nodes": 3, "train_samples": 60, "test_samples": 50},
        "strategies": [
            {
                "strategy": "generator",
                "rounds": 1,
                "options": {"images": 2, "generator": {"epochs": 1, "clip": 1.0, "noise": 1.0}},
            }
        ],
    }
    results = compare(tables, tmp_path, jobs=1)
    page = write_report(tmp_path, results).read_text()
    (run,) = results.runs
    assert page.count(run["drawn"]["png"]) == 1
    assert len(run["drawn"]["png"]) < 60_000
    budget = GeneratorOptions(epochs=1, clip=1.0, noise=1.0).epsilon
    for name, each in run["leakage"].items():
        assert each["epsilon"] == budget
        assert f"<td>{name}</td><td>{each['distance_ratio']:.3f}</td>" in page
    run["drawn"]["png"] += '"><script>'
    results.save(tmp_path)
    with pytest.raises(ConfigError, match=r"drawn\.png"):
        Results.load(tmp_path)


@pytest.mark.parametrize("receivers", [0, 1, 2])
def test_decoders_travel_once_between_nodes(receivers: int) -> None:
    found = trial(run_of(rounds=1, receivers=receivers, images=2, generator={"epochs": 1}))
    taken = found.grid.of("query.take")
    assert len(taken) == 4 * (receivers or 3)
    sizes = {
        sum(a.numpy().nbytes for a in request.content.array_records["arrays"].values())
        for request, _ in taken
    }
    assert len(sizes) == 1
    sent = found.grid.totals()["d2d"]
    assert sent == pytest.approx(len(taken) * sizes.pop(), rel=0.02)
    assert found.grid.totals()["up"] == found.grid.totals()["down"] == 0


def test_what_is_drawn_is_drawn_once() -> None:
    """A round later the node trains on the same images."""
    found = trial(run_of(rounds=2, images=2, generator={"epochs": 2}))
    state = found.contexts["n0"].state
    names = {name for name in state.array_records if name.startswith("generator/")}
    assert names == {f"generator/n{i}" for i in (1, 2, 3)}


def test_no_decoder_of_the_run_is_refused() -> None:
    found = trial(run_of(rounds=1, images=2, generator={"epochs": 1}))
    record = found.contexts["n0"].state.array_records["generator/n1"]
    tensors = tensors_of(record)
    assert decoder_of(tensors, 16, 10)
    with pytest.raises((ValueError, RuntimeError), match="size mismatch for lift"):
        decoder_of({**tensors, "lift.bias": torch.zeros(3)}, 16, 10)
    with pytest.raises(ValueError, match="accepted: at most 16"):
        decoder_of({**tensors, "last.bias": torch.zeros(1 << 20)}, 16, 10)


@pytest.mark.parametrize(
    ("record", "key", "value", "line"),
    [
        ("sent", "counts", [1 << 60], "counts: 1, must be 10, one a class"),
        ("sent", "counts", [-1] * 10, "counts: must be whole numbers"),
        ("sent", "source", "n1/counts", "must be an address such as n3"),
        ("arrays", "last.bias", Array(np.zeros(40, np.float32)), "accepted: at most 16"),
    ],
)
def test_who_hears_something_else_says_so(record: str, key: str, value: Any, line: str) -> None:
    def change(request: Any) -> None:
        if request.metadata.message_type == "query.take":
            request.content[record][key] = value

    found = trial(run_of(rounds=1, images=2, generator={"epochs": 1}), change=change)
    assert any(line in failure for failure in found.grid.failures)


def test_a_claim_of_many_samples_costs_the_experimenter_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Generator.client_actions["train.generator"]

    def lying(message: Any, context: Any) -> Any:
        reply = real(message, context)
        reply.content["sent"]["counts"] = [1 << 60] * 10
        if context.node_config["partition-id"] == 1:
            reply.content["arrays"] = ArrayRecord({"last.bias": torch.zeros(1)})
        return reply

    monkeypatch.setitem(Generator.client_actions, "train.generator", lying)
    found = trial(run_of(rounds=1, images=2, generator={"epochs": 1}))
    assert isinstance(found.strategy, Generator)
    assert set(found.strategy.leakage) == {"n0", "n2", "n3"}


@pytest.mark.parametrize("kind", ["colours", "nan"])
def test_a_generator_of_other_images_does_not_end_the_run(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Generator.client_actions["train.generator"]

    def lying(message: Any, context: Any) -> Any:
        reply = real(message, context)
        if context.node_config["partition-id"] == 1:
            other = Decoder(16, 10, 3 if kind == "colours" else 1).state_dict()
            if kind == "nan":
                other = {name: torch.full_like(t, torch.nan) for name, t in other.items()}
            reply.content["arrays"] = ArrayRecord(other)
        return reply

    monkeypatch.setitem(Generator.client_actions, "train.generator", lying)
    found = trial(run_of(rounds=1, images=2, generator={"epochs": 1}))
    assert isinstance(found.strategy, Generator)
    assert {"n0", "n2", "n3"} <= set(found.strategy.leakage)
    assert set(found.strategy.drawn["nodes"]) == set(found.strategy.leakage)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"images": -1}, "options.images = -1: must be at least 0"),
        ({"generator": {"latent": 0}}, "options.generator.latent = 0: must be"),
        ({"generator": {"colour": 1}}, "options.generator.colour = 1: unknown key"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        run_locally(run_of(**options))
